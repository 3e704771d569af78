"""What can be wrong with a message, a topic or a change of state."""

from __future__ import annotations


class ProtocolError(ValueError):
    """A topic, a payload or a state that the protocol does not allow; the message names it."""


class VersionConflict(ProtocolError):
    """The sender wrote on top of a version that is no longer the current one."""


class InvalidTransition(ProtocolError):
    """A job cannot go from its present state to the one asked for."""
