"""Errors on a device, split by their cause.

- EdgecError
    - AgentError: the agent cannot start or continue; the message says what to change
        - ConfigError: the configuration file, with line and key
        - EnrollError: the server refused, or its answer is malformed
        - SourceError: a camera, file or microphone that cannot be opened or read
        - StateError: the state folder cannot be used
        - UpdateError: an update cannot continue; it ends the job, never the agent
            - FetchError: the registry did not deliver what the manifest promises
            - TrustError: the content is not what was signed or requested
"""

from __future__ import annotations

from edgec.targets.errors import EdgecError


class AgentError(EdgecError):
    """The agent cannot start or continue."""


class ConfigError(AgentError):
    """The configuration file is not valid; the message names file, line and key."""

    exit_code = 2


class EnrollError(AgentError):
    """The fleet server did not enrol the device."""


class SourceError(AgentError):
    """A source cannot be opened or read."""


class StateError(AgentError):
    """The state folder cannot be used: no space, no permission, or another agent uses it."""


class UpdateError(AgentError):
    """An update cannot continue; the job ends with this message."""


class FetchError(UpdateError):
    """The registry did not deliver what the manifest promises."""


class TrustError(UpdateError):
    """The content is not what was signed or requested."""
