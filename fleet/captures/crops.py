"""Parts of pictures, cut out for classifiers; the one module of the fleet that decodes pictures."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

SMALLEST = 2
"""Pixels; a smaller box is not cut out."""
QUALITY = 95


def cut(content: bytes, boxes: Sequence[tuple[float, float, float, float]]) -> list[bytes] | None:
    """The parts of a JPEG within boxes (left, top, right, bottom in pixels), as JPEGs.

    Returns:
        A JPEG for each box, empty for one without pixels; None for a picture that cannot be decoded.
    """
    import cv2  # when it is needed: it takes a tenth of a second, and a server seldom exports

    picture = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)
    if picture is None:
        return None
    crops: list[bytes] = []
    for left, top, right, bottom in boxes:
        crop = picture[int(top) : math.ceil(bottom), int(left) : math.ceil(right)]
        fits = min(crop.shape[:2]) >= SMALLEST
        crops.append(
            cv2.imencode(".jpg", crop, [cv2.IMWRITE_JPEG_QUALITY, QUALITY])[1].tobytes() if fits else b""
        )
    return crops
