"""Drawing over a picture: boxes, labels, track ids, zones and timing."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

_COLOURS = ((80, 200, 120), (60, 160, 250), (230, 130, 60), (200, 90, 220), (70, 210, 230), (150, 150, 250))
_FONT = cv2.FONT_HERSHEY_SIMPLEX


def draw(picture: NDArray[np.uint8], overlay: dict[str, Any], zones: Iterable[dict[str, Any]] = ()) -> None:
    """Draw onto `picture` in place; `overlay` has `tracks` and `text`."""
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
