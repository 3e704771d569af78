"""What ends a conversion in the process with TensorFlow, in words for the user."""

from __future__ import annotations

SHAPE, MODEL = "shape", "model"


class Refused(Exception):
    """What the user can mend."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind
