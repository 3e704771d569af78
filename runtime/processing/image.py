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
from edgec.runtime.processing.nv12 import Nv12

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


def check(frame: Any) -> Frame:  # noqa: ANN401 - whatever the caller passed
    """A frame as it came, in BGR if it came in NV12.

    Raises:
        InputError: not a frame.
    """
    if isinstance(frame, Nv12) and isinstance(frame.luma, np.ndarray):
        return frame.bgr()
    if not isinstance(frame, np.ndarray):
        raise InputError(f"a frame must be a numpy array as OpenCV returns it, not {type(frame).__name__}")
    check_form(frame.shape, str(frame.dtype))
    return frame


def check_form(shape: tuple[int, ...], dtype: str) -> None:
    """Check the shape and the data type of a frame.

    Raises:
        InputError: not those of a frame.
    """
    if dtype != "uint8" or len(shape) not in (2, 3) or (len(shape) == 3 and shape[2] not in (1, 3)):
        raise InputError(
            "a frame must be uint8 of shape [height, width, 3] (BGR) or [height, width] (gray), "
            f"not {dtype}{list(shape)}"
        )
    if 0 in shape:
        raise InputError("the frame is empty")


@dataclass(frozen=True, slots=True)
class Fit:
    """Which part of a frame is resized, and where it lies in the input.

    Attributes:
        left, top, width, height: the part, in pixels of the frame.
        inner_left, inner_top, inner_width, inner_height: what it becomes, in pixels of the input.
        placement: of the whole frame in the input.
    """

    left: int
    top: int
    width: int
    height: int
    inner_left: int
    inner_top: int
    inner_width: int
    inner_height: int
    placement: Placement


def fit(width: int, height: int, card: ImageInput) -> Fit:
    """How a frame of a size becomes the input."""
    if card.resize == "stretch":
        placement = Placement(width, height, card.width / width, card.height / height, 0.0, 0.0)
        return Fit(0, 0, width, height, 0, 0, card.width, card.height, placement)
    if card.resize == "letterbox":
        ratio = min(card.width / width, card.height / height)
        inner = max(1, min(card.width, round(width * ratio))), max(1, min(card.height, round(height * ratio)))
        left, top = ((card.width - inner[0]) // 2, (card.height - inner[1]) // 2)
        left, top = (0, 0) if card.anchor == "top-left" else (left, top)
        placement = Placement(width, height, inner[0] / width, inner[1] / height, left, top)
        return Fit(0, 0, width, height, left, top, *inner, placement)
    ratio = max(card.width / width, card.height / height)
    cut_width, cut_height = min(width, round(card.width / ratio)), min(height, round(card.height / ratio))
    left, top = (width - cut_width) // 2, (height - cut_height) // 2
    scale_x, scale_y = card.width / cut_width, card.height / cut_height
    placement = Placement(width, height, scale_x, scale_y, -left * scale_x, -top * scale_y)
    return Fit(left, top, cut_width, cut_height, 0, 0, card.width, card.height, placement)


def place(frame: Frame, card: ImageInput) -> tuple[Frame, Placement]:
    """Resize a frame to the input's size, keeping its colours.

    Returns:
        uint8 `[height, width, 3]` or `[height, width]`, and the frame's placement in it.
    """
    import cv2

    height, width = frame.shape[:2]
    found = fit(width, height, card)
    part = frame[found.top : found.top + found.height, found.left : found.left + found.width]
    inner = found.inner_width, found.inner_height
    if inner != (found.width, found.height):
        part = np.asarray(cv2.resize(part, inner, interpolation=_interpolation(card.interpolation)), np.uint8)
    if inner == (card.width, card.height):
        return part, found.placement
    canvas = np.full((card.height, card.width, *frame.shape[2:]), round(card.pad), np.uint8)
    view = canvas[found.inner_top :, found.inner_left :][: found.inner_height, : found.inner_width]
    view[...] = part.reshape(view.shape)
    return canvas, found.placement


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
        picture, placement = place(check(frame), self.card)
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
            self.picture(frame) if self._prepare is not None else place(check(frame), self.card)
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
