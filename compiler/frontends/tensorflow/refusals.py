"""Errors in TensorFlow's process that the user can fix."""

from __future__ import annotations

SHAPE, MODEL = "shape", "model"


class Refused(Exception):
    """An error that the user can fix, of the kind `SHAPE` or `MODEL`."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind
