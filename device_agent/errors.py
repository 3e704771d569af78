"""What can go wrong on a device, split by whose fault it is.

- EdgecError
    - AgentError: the agent cannot start or go on; the message says what to change
        - ConfigError: the configuration file, with line and key
        - EnrollError: the server refused, or the answer makes no sense
        - SourceError: a camera, file or microphone that cannot be opened or read
        - StateError: the state folder cannot be used
        - UpdateError: an update cannot go on; it ends the job, never the agent
            - FetchError: the registry did not give what the manifest promises
            - TrustError: what came is not what was signed or asked for
"""

from __future__ import annotations

from edgec.targets.errors import EdgecError


class AgentError(EdgecError):
    """The agent cannot start or go on."""


class ConfigError(AgentError):
    """The configuration file is not valid; the message names file, line and key."""

    exit_code = 2


class EnrollError(AgentError):
    """The fleet server did not take the device in."""


class SourceError(AgentError):
    """A source cannot be opened or read."""


class StateError(AgentError):
    """The state folder cannot be used: no space, no right, another agent in it."""


class UpdateError(AgentError):
    """An update cannot go on; the job ends with this message."""


class FetchError(UpdateError):
    """The registry did not give what the manifest promises."""


class TrustError(UpdateError):
    """What came is not what was signed or asked for."""
