"""A frame of the live view's ring: a picture and the overlay to draw on it."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
from numpy.typing import NDArray

_TRAILER = b"edgecOVL"


def with_overlay(picture: NDArray[np.uint8], overlay: dict[str, Any], into: NDArray[np.uint8]) -> int:
    """Write a picture and its overlay into a slot's memory; returns the rows used.

    The overlay follows the picture as whole rows of bytes, so that both travel as one frame: JSON, padding, and at the
    very end a marker, the JSON's length and the picture's height.
    """
    height, width = picture.shape[:2]
    data = json.dumps(overlay, separators=(",", ":")).encode()
    end = _TRAILER + len(data).to_bytes(4, "little") + height.to_bytes(4, "little")
    extra = -(-(len(data) + len(end)) // (width * 3))
    start, stop = height * width * 3, (height + extra) * width * 3
    into[:start] = picture.reshape(-1)
    into[start : start + len(data)] = np.frombuffer(data, np.uint8)
    into[stop - len(end) : stop] = np.frombuffer(end, np.uint8)
    return int(height + extra)


def split_overlay(picture: NDArray[np.uint8]) -> tuple[dict[str, Any], NDArray[np.uint8]]:
    """Return overlay and picture of a frame that `with_overlay` wrote."""
    width = picture.shape[1]
    flat = picture.reshape(-1)
    end = flat[-16:].tobytes()
    if end[:8] != _TRAILER:
        return {}, picture
    size, height = (int.from_bytes(end[at : at + 4], "little") for at in (8, 12))
    start = height * width * 3
    return json.loads(flat[start : start + size].tobytes()), np.ascontiguousarray(picture[:height])
