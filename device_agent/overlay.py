"""What is drawn over a picture: boxes, labels, track ids, zones and timing; and what is blurred in it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from edgec.device_agent.rules_config import Zone

_COLOURS = ((80, 200, 120), (60, 160, 250), (230, 130, 60), (200, 90, 220), (70, 210, 230), (150, 150, 250))
_FONT = cv2.FONT_HERSHEY_SIMPLEX


def draw(picture: NDArray[np.uint8], overlay: dict[str, Any], zones: Iterable[dict[str, Any]] = ()) -> None:
    """Draw onto ``picture`` in place; ``overlay`` has ``tracks`` and ``text``."""
    height, width = picture.shape[:2]
    scale = max(0.4, min(width, height) / 900)
    for zone in zones:
        corners = np.array([(x * width, y * height) for x, y in zone["polygon"]], np.int32)
        # A counting line is a zone of two corners.
        cv2.polylines(picture, [corners], len(corners) > 2, (200, 200, 80), 1, cv2.LINE_AA)
        _text(picture, zone["name"], int(corners[0][0]) + 3, int(corners[0][1]) + 14, (200, 200, 80), scale)
    for track in overlay.get("tracks", ()):
        colour = _COLOURS[int(track["class_id"]) % len(_COLOURS)]
        label = f"{track['label']} {track['score']:.2f} #{track['id']}"
        if track.get("box"):
            left, top, right, bottom = (round(value) for value in track["box"])
            cv2.rectangle(picture, (left, top), (right, bottom), colour, 2, cv2.LINE_AA)
            _text(picture, label, left + 2, max(12, top - 5), colour, scale)
    for line, text in enumerate([t["label"] for t in overlay.get("tracks", ()) if not t.get("box")]):
        _text(picture, text, 8, 40 + 18 * line, (240, 240, 240), scale)
    if overlay.get("text"):
        _text(picture, overlay["text"], 8, height - 8, (240, 240, 240), scale)


def _text(
    picture: NDArray[np.uint8], text: str, left: int, bottom: int, colour: tuple[int, int, int], scale: float
) -> None:
    (width, height), below = cv2.getTextSize(text, _FONT, scale, 1)
    ground = picture[max(0, bottom - height - 3) : bottom + below, max(0, left - 2) : left + width + 2]
    ground //= 3
    cv2.putText(picture, text, (left, bottom), _FONT, scale, colour, 1, cv2.LINE_AA)


def blur_box(picture: NDArray[np.uint8], box: tuple[float, float, float, float], margin: float) -> None:
    """Make a box unrecognisable in place, enlarged by a share of its size: averaged over five by five blocks."""
    across, down = (box[2] - box[0]) * margin, (box[3] - box[1]) * margin
    left, top = max(0, int(box[0] - across)), max(0, int(box[1] - down))
    part = picture[top : max(0, int(box[3] + down) + 1), left : max(0, int(box[2] + across) + 1)]
    if not part.size:
        return
    size = (min(5, part.shape[1]), min(5, part.shape[0]))
    small = cv2.resize(part, size, interpolation=cv2.INTER_AREA)
    part[:] = cv2.resize(small, (part.shape[1], part.shape[0]), interpolation=cv2.INTER_NEAREST)


def blur(picture: NDArray[np.uint8], masks: Iterable[Zone]) -> None:
    """Make the masked zones unrecognisable in place: averaged over blocks of a twelfth of the zone."""
    height, width = picture.shape[:2]
    for mask in masks:
        corners = np.array([(x * width, y * height) for x, y in mask.polygon], np.int32)
        left, top, across, down = cv2.boundingRect(corners)
        part = picture[top : top + down, left : left + across]
        if not part.size:
            continue
        small = cv2.resize(part, (min(12, across), min(12, down)), interpolation=cv2.INTER_AREA)
        coarse = cv2.resize(small, (part.shape[1], part.shape[0]), interpolation=cv2.INTER_NEAREST)
        shape = np.zeros(part.shape[:2], np.uint8)
        cv2.fillPoly(shape, [corners - (left, top)], 255)
        part[shape > 0] = coarse[shape > 0]
