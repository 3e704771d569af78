"""The errors of `edgec.runtime`, by the same names."""

from __future__ import annotations


class EdgecError(Exception):
    """Any error that this package raises."""


class ArtifactError(EdgecError):
    """The artifact is damaged, altered or truncated, or not an artifact. None of its code was executed."""


class IncompatibleDevice(EdgecError):
    """The artifact needs something that this machine or libedgec lacks; the message says what."""


class InputError(EdgecError):
    """Names, shapes or data types do not fit; the message says what was expected."""
