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
    rows, columns, vertical, horizontal = _lines(fit, interpolation, size, (4, 5))
    columns[:, 4] = 1 if channels == 3 else 0
    vertical[:, :2] *= width * channels
    horizontal[:, :2] *= channels
    return [rows, columns]


def planar_tables(
    fit: Fit, row_bytes: tuple[int, int], interpolation: str, size: tuple[int, int]
) -> list[Table]:
    """The tables for frames in NV12 of one size.

    Args:
        fit, interpolation, size: as for `tables`.
        row_bytes: of luma and of chroma.

    Returns:
        rows `[height, 6]`: where two rows of luma begin, their weights, and where their rows of chroma begin;
        columns `[width, 6]`: the same of pixels in a row, and of their u.
    """
    rows, columns, vertical, horizontal = _lines(fit, interpolation, size, (6, 6))
    vertical[:, 4:] = vertical[:, :2] // 2 * row_bytes[1]
    vertical[:, :2] *= row_bytes[0]
    horizontal[:, 4:] = horizontal[:, :2] // 2 * 2
    return [rows, columns]


def _lines(
    fit: Fit, interpolation: str, size: tuple[int, int], widths: tuple[int, int]
) -> tuple[Table, Table, Table, Table]:
    """Tables for rows and columns of the input, filled with numbers of pixels of the frame; and their filled parts."""
    rows, columns = (np.zeros((count, width), np.int32) for count, width in zip(size, widths, strict=True))
    rows[:, 2] = columns[:, 2] = PAD
    nearest = interpolation == "nearest"
    vertical = rows[fit.inner_top : fit.inner_top + fit.inner_height]
    vertical[:, :4] = _line(fit.height, fit.inner_height, nearest=nearest, ends=False)
    vertical[:, :2] += fit.top
    horizontal = columns[fit.inner_left : fit.inner_left + fit.inner_width]
    horizontal[:, :4] = _line(fit.width, fit.inner_width, nearest=nearest, ends=True)
    horizontal[:, :2] += fit.left
    return rows, columns, vertical, horizontal


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
