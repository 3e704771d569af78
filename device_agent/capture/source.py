"""The interface of a source of frames, and its description for people."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from edgec.device_agent.config.source_settings import SourceSettings
from edgec.protocol.masking import mask

Picture = NDArray[np.uint8]
"""uint8 [height, width, 3], BGR."""
Sound = NDArray[np.float32]
"""float32 [samples, channels] in -1…1."""


class FrameSource(Protocol):
    """What a capture process reads from."""

    fps: float
    """Frame rate to play at; 0 when the source paces itself (cameras, streams)."""

    def read(self, into: Picture | None) -> Picture | Sound | None:
        """Return the next frame, in `into` if it fits; `None` at the end.

        Raises:
            SourceError: the source failed.
        """

    def skip(self) -> bool:
        """Skip one frame as cheaply as possible; `False` at the end."""

    def close(self) -> None:
        """Release the device or file."""


def describe(section: SourceSettings) -> str:
    """Describe the source for people, without its secrets."""
    match section.kind:
        case "camera":
            return f"camera {section.index} (/dev/video{section.index})"
        case "url":
            return mask(section.url or "")
        case "microphone":
            return f"microphone {section.device or 'default'}"
        case "test":
            return "test pattern"
        case _:
            return str(section.path)
