"""How a GPU resizes a frame: tables of the pixels that each row and column of the input is made of, for one kernel.

A pixel of the input is a weighted sum of four of the frame, in integers, with the arithmetic of OpenCV's `resize` for
8 bits: the nearest pixel and a frame that is not resized are sums with one weight. `edgec.runtime.processing.image`
decides where a frame lies in the input.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from edgec.runtime.processing.image import Fit

Table = npt.NDArray[np.int32]

PAD = -1
"""In place of a weight: the row or column lies outside the frame."""
MOST_BYTES = 1 << 30
"""Of a frame, so that 32 bits count its bytes."""
GRAY_WEIGHTS, GRAY_BITS = (3735, 19235, 9798), 15
"""Of blue, green and red in OpenCV's gray, in 2^-15."""
_ONE = 2048  # a weight of 1
RESAMPLED = ("linear", "nearest")
"""Interpolations that the tables express."""


def tables(fit: Fit, frame: tuple[int, int, int], interpolation: str, size: tuple[int, int]) -> list[Table]:
    """The tables for frames of one size.

    Args:
        fit: which part of the frame lies where in the input.
        frame: height, width and channels of the frame, whose bytes lie side by side.
        interpolation: one of `RESAMPLED`; anything will do where nothing is resized.
        size: height and width of the input.

    Returns:
        rows `[height, 4]`: where two rows of the frame begin, in bytes, and their weights, of 2048;
        columns `[width, 5]`: the same of pixels in a row, and the distance of channels, 0 for a gray frame.
    """
    height, width, channels = frame
    assert height * width * channels <= MOST_BYTES
    rows = np.zeros((size[0], 4), np.int32)
    columns = np.zeros((size[1], 5), np.int32)
    rows[:, 2] = columns[:, 2] = PAD
    columns[:, 4] = 1 if channels == 3 else 0
    nearest = interpolation == "nearest"
    vertical = _line(fit.height, fit.inner_height, nearest=nearest, ends=False)
    vertical[:, :2] = (vertical[:, :2] + fit.top) * (width * channels)
    rows[fit.inner_top : fit.inner_top + fit.inner_height] = vertical
    horizontal = _line(fit.width, fit.inner_width, nearest=nearest, ends=True)
    horizontal[:, :2] = (horizontal[:, :2] + fit.left) * channels
    columns[fit.inner_left : fit.inner_left + fit.inner_width, :4] = horizontal
    return [rows, columns]


def _line(given: int, wanted: int, *, nearest: bool, ends: bool) -> npt.NDArray[Any]:
    """Two pixels and their weights for each of `wanted` pixels, from a line of `given`.

    OpenCV's arithmetic: places in fp64, weights in fp32. `ends`: a place beyond the last pixel has the weight 1 there,
    as along rows; otherwise both pixels are that one, with the weights as they are, as along columns.
    """
    numbers = np.arange(wanted)
    made = np.zeros((wanted, 4), np.int64)
    if nearest or given == wanted:
        made[:, 0] = np.minimum(np.floor(numbers * (1 / (wanted / given))), given - 1)
        made[:, 1], made[:, 2] = made[:, 0], _ONE
        return made
    places = ((numbers + 0.5) * (1 / (wanted / given)) - 0.5).astype(np.float32)
    first = np.floor(places)
    share = places - first
    if ends:
        share[(first < 0) | (first >= given - 1)] = 0.0
    made[:, 0] = np.clip(first, 0, given - 1)
    made[:, 1] = np.clip(first + 1, 0, given - 1)
    if ends:
        made[first < 0, 1] = 0
    made[:, 2] = np.rint((np.float32(1) - share) * np.float32(_ONE))
    made[:, 3] = np.rint(share * np.float32(_ONE))
    return made
