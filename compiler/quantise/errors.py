"""Errors of quantisation; all are for the user to fix."""

from __future__ import annotations

from edgec.compiler.errors import CompilerError
from edgec.targets.errors import UsageError


class CalibrationError(UsageError):
    """Calibration data that are missing, too few, of a wrong shape, or say nothing."""


class BoundNotMet(CompilerError):
    """The loss of accuracy that the user accepts cannot be kept."""
