"""Errors of messages, topics and state transitions."""

from __future__ import annotations


class ProtocolError(ValueError):
    """A topic, payload or state that the protocol does not allow; the message names it."""


class VersionConflict(ProtocolError):
    """The update was based on a version that is no longer current."""


class InvalidTransition(ProtocolError):
    """A job cannot go from its current state to the requested one."""
