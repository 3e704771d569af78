"""Frames in NV12 on a processor."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

import edgec.runtime as rt
from edgec.runtime.processing.image import check

RNG = np.random.default_rng(8)


def test_a_frame_is_what_opencv_makes_of_its_planes() -> None:
    buffer = RNG.integers(0, 256, (12, 64), np.uint8)
    frame = rt.Nv12.of_buffer(buffer, width=10)
    assert (frame.height, frame.width) == (8, 10)
    chroma = np.ascontiguousarray(buffer[8:, :10]).reshape(4, 5, 2)
    wanted = cv2.cvtColorTwoPlane(np.ascontiguousarray(buffer[:8, :10]), chroma, cv2.COLOR_YUV2BGR_NV12)
    np.testing.assert_array_equal(check(frame), wanted)


@pytest.mark.parametrize(
    ("luma", "chroma", "width", "message"),
    [
        ((8, 10), (4, 10), 12, "12x8 has even sides and planes"),
        ((8, 10), (3, 10), None, r"not \[8, 10\] and \[3, 10\]"),
        ((7, 10), (3, 10), None, "10x7 has even sides"),
        ((8, 9), (4, 10), None, "9x8 has even sides"),
        ((8, 10, 1), (4, 10), None, r"uint8 planes \[height, row\].*not uint8\[8, 10, 1\]"),
    ],
)
def test_planes_that_do_not_belong_together_are_refused(
    luma: tuple[int, ...], chroma: tuple[int, ...], width: int | None, message: str
) -> None:
    with pytest.raises(rt.InputError, match=message):
        rt.Nv12(np.zeros(luma, np.uint8), np.zeros(chroma, np.uint8), width)
    with pytest.raises(rt.InputError, match="multiple of three rows, not 10"):
        rt.Nv12.of_buffer(np.zeros((10, 4), np.uint8))
