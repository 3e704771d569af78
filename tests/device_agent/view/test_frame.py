"""Frames of the live view: picture and overlay cross the ring together."""

from __future__ import annotations

import numpy as np
import pytest

from edgec.device_agent.view.frame import split_overlay, with_overlay


@pytest.mark.parametrize("width", [17, 640])
@pytest.mark.parametrize("tracks", [0, 1, 200])
def test_picture_and_overlay_come_apart_as_they_were(width: int, tracks: int) -> None:
    picture = np.random.default_rng(1).integers(0, 255, (9, width, 3), np.uint8)
    overlay = {
        "text": "door  3.2 ms",
        "tracks": [{"id": str(number), "label": "é"} for number in range(tracks)],
    }
    memory = np.zeros(picture.nbytes + 65536, np.uint8)
    rows = with_overlay(picture, overlay, memory)
    frame = memory[: rows * width * 3].reshape(rows, width, 3)
    found, same = split_overlay(frame)
    assert found == overlay
    assert np.array_equal(same, picture)


def test_a_picture_without_an_overlay_is_left_alone() -> None:
    picture = np.full((9, 17, 3), 7, np.uint8)
    overlay, same = split_overlay(picture)
    assert overlay == {}
    assert np.array_equal(same, picture)
