"""From a frame to the model's pixels, and from the model's coordinates back to the frame."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import edgec.runtime as rt
from edgec.runtime.processing.image import ImagePreprocessor, place
from tests.runtime.processing.cards import card


@settings(max_examples=60, deadline=None)
@given(
    width=st.integers(1, 300),
    height=st.integers(1, 300),
    resize=st.sampled_from(["stretch", "letterbox", "crop"]),
    anchor=st.sampled_from(["centre", "top-left"]),
)
def test_a_box_around_a_marked_spot_comes_back_to_it(
    width: int, height: int, resize: str, anchor: str
) -> None:
    """The way back is the inverse of the way in, for any frame."""
    spec = card({"decoder": "raw"}, input={"resize": resize, "anchor": anchor}).input
    assert isinstance(spec, rt.card.ImageInput)
    frame = np.zeros((height, width, 3), np.uint8)
    picture, where = place(frame, spec)
    assert picture.shape == (64, 64, 3)
    corners = np.array([[0.0, 0.0], [width, height]])
    inside = corners * [where.scale_x, where.scale_y] + [where.offset_x, where.offset_y]
    np.testing.assert_allclose(where.to_frame(inside), corners, atol=1e-9)
    if resize != "crop":
        assert (inside >= -1e-9).all()
        assert (inside <= 64 + 1e-9).all()
    boxes = where.boxes_to_frame(np.array([[-1e6, -1e6, 1e6, 1e6]]))
    np.testing.assert_allclose(boxes, [[0, 0, width, height]])


@pytest.mark.parametrize("colour", ["rgb", "bgr", "gray"])
@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("gray_frame", [False, True])
def test_pixels_reach_the_model_as_the_card_says(colour: str, layout: str, gray_frame: bool) -> None:
    import cv2

    frame = np.random.default_rng(0).integers(0, 256, (64, 64) if gray_frame else (64, 64, 3), dtype=np.uint8)
    mean, scale = ([10.0], [0.5]) if colour == "gray" else ([10.0, 20.0, 30.0], [0.5, 0.25, 2.0])
    spec = card(
        {"decoder": "raw"}, input={"colour": colour, "layout": layout, "mean": mean, "scale": scale}
    ).input
    assert isinstance(spec, rt.card.ImageInput)
    bgr = cv2.cvtColor(frame, cv2.COLOR_GRAY2BGR) if gray_frame else frame
    seen = {
        "rgb": bgr[:, :, ::-1],
        "bgr": bgr,
        "gray": frame if gray_frame else cv2.cvtColor(frame, cv2.COLOR_BGR2GRAY),
    }
    expected = (np.atleast_3d(seen[colour]).astype(np.float32) - np.float32(mean)) * np.float32(scale)
    tensor, _ = ImagePreprocessor(spec, "float32")(frame)
    np.testing.assert_array_equal(tensor[0], expected.transpose(2, 0, 1) if layout == "NCHW" else expected)
    assert tensor.ctypes.data % 64 == 0


@pytest.mark.parametrize(
    "frame",
    [None, "x.jpg", np.zeros((4, 4, 3)), np.zeros((4, 4, 4), np.uint8), np.zeros((0, 4, 3), np.uint8)],
)
def test_what_is_no_frame_is_refused(frame: Any) -> None:
    spec = card({"decoder": "raw"}).input
    assert isinstance(spec, rt.card.ImageInput)
    with pytest.raises(rt.InputError, match="frame"):
        ImagePreprocessor(spec, "float32")(frame)
