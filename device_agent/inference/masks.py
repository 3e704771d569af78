"""Masking of pictures: zones and faces are made unrecognisable before a frame leaves the pipeline."""

from __future__ import annotations

from collections.abc import Iterable

import cv2
import numpy as np
from numpy.typing import NDArray

from edgec.device_agent.config.rules import Zone


def blur_box(picture: NDArray[np.uint8], box: tuple[float, float, float, float], margin: float) -> None:
    """Pixelate a box in place, enlarged by a share of its size: averaged over five by five blocks."""
    across, down = (box[2] - box[0]) * margin, (box[3] - box[1]) * margin
    left, top = max(0, int(box[0] - across)), max(0, int(box[1] - down))
    part = picture[top : max(0, int(box[3] + down) + 1), left : max(0, int(box[2] + across) + 1)]
    if not part.size:
        return
    size = (min(5, part.shape[1]), min(5, part.shape[0]))
    small = cv2.resize(part, size, interpolation=cv2.INTER_AREA)
    part[:] = cv2.resize(small, (part.shape[1], part.shape[0]), interpolation=cv2.INTER_NEAREST)


def blur(picture: NDArray[np.uint8], masks: Iterable[Zone]) -> None:
    """Pixelate the masked zones in place: averaged over blocks of a twelfth of the zone."""
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
