"""Messages between the supervisor and a capture process."""

from __future__ import annotations

from typing import Literal

import msgspec

from edgec.device_agent.config.source_settings import SourceSettings
from edgec.device_agent.process.messages import Message, decoder


class StartCapture(Message, frozen=True):
    """Open the source. Descriptors: the ring, then two eventfds.

    The first, *ready*, is written when a frame was committed; the second, *space*, when the reader released a slot.
    """

    name: str
    source: SourceSettings
    policy: Literal["newest", "every"]
    max_fps: float | None
    timeout_s: float


class LimitRate(Message, frozen=True):
    """Deliver at most `max_fps` frames a second; `None` lifts the limit."""

    max_fps: float | None


class CaptureStarted(Message, frozen=True):
    """The process has loaded what it needs, and opens the source now."""


class SourceOpened(Message, frozen=True):
    """The source delivers frames."""


class SourceEnded(Message, frozen=True):
    """The source has no more frames."""


class SourceFailed(Message, frozen=True):
    """The source cannot be opened, or broke."""

    message: str


FromCapture = CaptureStarted | SourceOpened | SourceEnded | SourceFailed
START_CAPTURE: msgspec.json.Decoder[StartCapture] = decoder(StartCapture)
TO_CAPTURE: msgspec.json.Decoder[LimitRate] = decoder(LimitRate)
FROM_CAPTURE: msgspec.json.Decoder[FromCapture] = decoder(FromCapture)
