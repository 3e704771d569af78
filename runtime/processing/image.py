"""Image preprocessing: from a camera's frame to the model's input, and coordinates back to the frame."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from edgec.runtime.card import ImageInput
from edgec.runtime.errors import InputError
from edgec.runtime.execution.compiled_functions import Array, empty_aligned

Frame = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Placement:
    """Where a frame is in the model's input: `input = frame * scale + offset` along each axis (pixels)."""

    frame_width: int
    frame_height: int
    scale_x: float
    scale_y: float
    offset_x: float
    offset_y: float

    def to_frame(self, xy: Array) -> Array:
        """Map points of the input `[..., 2]` (x, y) to pixels of the frame."""
        scale = np.array([self.scale_x, self.scale_y])
        offset = np.array([self.offset_x, self.offset_y])
        points: Array = (xy - offset) / scale
        return points

    def boxes_to_frame(self, boxes: Array) -> Array:
        """Map boxes of the input `[n, 4]` (corners) to pixels of the frame, clipped to its edges."""
        limits = np.array([self.frame_width, self.frame_height], np.float64)
        points = self.to_frame(boxes.reshape(-1, 2, 2).astype(np.float64))
        return np.clip(points, 0.0, limits).reshape(-1, 4)


def _interpolation(name: str) -> int:
    import cv2

    known = {"linear": cv2.INTER_LINEAR, "nearest": cv2.INTER_NEAREST, "area": cv2.INTER_AREA}
    return known.get(name, cv2.INTER_CUBIC)


def _check(frame: Any) -> Frame:  # noqa: ANN401 - whatever the caller passed
    if not isinstance(frame, np.ndarray):
        raise InputError(f"a frame must be a numpy array as OpenCV returns it, not {type(frame).__name__}")
    if (
        frame.dtype != np.uint8
        or frame.ndim not in (2, 3)
        or (frame.ndim == 3 and frame.shape[2] not in (1, 3))
    ):
        raise InputError(
            "a frame must be uint8 of shape [height, width, 3] (BGR) or [height, width] (gray), "
            f"not {frame.dtype}{list(frame.shape)}"
        )
    if not frame.size:
        raise InputError("the frame is empty")
    return frame


def place(frame: Frame, card: ImageInput) -> tuple[Frame, Placement]:
    """Resize a frame to the input's size, keeping its colours.

    Returns:
        uint8 `[height, width, 3]` or `[height, width]`, and the frame's placement in it.
    """
    import cv2

    height, width = frame.shape[:2]
    how = _interpolation(card.interpolation)
    if card.resize == "stretch":
        placement = Placement(width, height, card.width / width, card.height / height, 0.0, 0.0)
        if (width, height) == (card.width, card.height):
            return frame, placement
        return np.asarray(
            cv2.resize(frame, (card.width, card.height), interpolation=how), np.uint8
        ), placement
    if card.resize == "letterbox":
        ratio = min(card.width / width, card.height / height)
        inner = max(1, min(card.width, round(width * ratio))), max(1, min(card.height, round(height * ratio)))
        left, top = ((card.width - inner[0]) // 2, (card.height - inner[1]) // 2)
        left, top = (0, 0) if card.anchor == "top-left" else (left, top)
        canvas = np.full((card.height, card.width, *frame.shape[2:]), round(card.pad), np.uint8)
        view = canvas[top : top + inner[1], left : left + inner[0]]
        view[...] = (
            frame
            if inner == (width, height)
            else cv2.resize(frame, inner, interpolation=how).reshape(view.shape)
        )
        return canvas, Placement(width, height, inner[0] / width, inner[1] / height, left, top)
    ratio = max(card.width / width, card.height / height)
    cut_width, cut_height = min(width, round(card.width / ratio)), min(height, round(card.height / ratio))
    left, top = (width - cut_width) // 2, (height - cut_height) // 2
    cut = frame[top : top + cut_height, left : left + cut_width]
    scale_x, scale_y = card.width / cut_width, card.height / cut_height
    picture = np.asarray(cv2.resize(cut, (card.width, card.height), interpolation=how), np.uint8)
    return picture, Placement(width, height, scale_x, scale_y, -left * scale_x, -top * scale_y)


def _channels(picture: Frame, card: ImageInput) -> Frame:
    """Convert to gray for a gray model, else to BGR."""
    import cv2

    gray = picture.ndim == 2 or picture.shape[2] == 1
    if gray == (card.colour == "gray"):
        return picture
    return np.asarray(cv2.cvtColor(picture, cv2.COLOR_GRAY2BGR if gray else cv2.COLOR_BGR2GRAY), np.uint8)


def _recolour(picture: Frame, card: ImageInput) -> Frame:
    """Convert to the model's colours."""
    import cv2

    picture = _channels(picture, card)
    return np.asarray(cv2.cvtColor(picture, cv2.COLOR_BGR2RGB), np.uint8) if card.colour == "rgb" else picture


class ImagePreprocessor:
    """Turns frames into a model's input: resize, colour, mean and scale, layout.

    With `prepare`, which fills an input from a picture of its size, the compiled library does all but the resizing.
    """

    def __init__(
        self, card: ImageInput, dtype: str, prepare: Callable[[Frame, Array], None] | None = None
    ) -> None:
        self.card = card
        self._dtype = np.dtype(dtype)
        self._prepare = prepare
        channels = card.channels
        mean = np.broadcast_to(np.asarray(card.mean, np.float32), (channels,))
        scale = np.broadcast_to(np.asarray(card.scale, np.float32), (channels,))
        values = np.arange(256, dtype=np.float32)
        # With 256 values per channel a table lookup replaces the arithmetic, with identical results.
        self._table = np.ascontiguousarray((values[:, None] - mean) * scale).astype(self._dtype)
        sizes = (card.height, card.width)
        self._shape = (1, channels, *sizes) if card.layout == "NCHW" else (1, *sizes, channels)

    def picture(self, frame: Any) -> tuple[Frame, Placement]:  # noqa: ANN401 - checked here
        """A frame as a picture `[height, width, channels]` of the input's size, and its placement in it.

        Raises:
            InputError: not a frame.
        """
        picture, placement = place(_check(frame), self.card)
        picture = _channels(picture, self.card)
        return picture.reshape(self.card.height, self.card.width, self.card.channels), placement

    def __call__(self, frame: Any) -> tuple[Array, Placement]:  # noqa: ANN401 - checked here
        """Preprocess a frame (BGR or gray, uint8).

        Returns:
            the model's input, and the frame's placement in it.

        Raises:
            InputError: not a frame.
        """
        picture, placement = (
            self.picture(frame) if self._prepare is not None else place(_check(frame), self.card)
        )
        out = empty_aligned(self._shape, self._dtype)
        if self._prepare is not None:
            self._prepare(picture, out)
            return out, placement
        picture = _recolour(picture, self.card).reshape(self.card.height, self.card.width, self.card.channels)
        for channel in range(self.card.channels):
            values = self._table[:, channel]
            if self.card.layout == "NHWC":
                out[0, :, :, channel] = values[picture[:, :, channel]]
            else:
                np.take(values, picture[:, :, channel], out=out[0, channel], mode="clip")
        return out, placement
