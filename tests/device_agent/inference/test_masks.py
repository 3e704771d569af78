"""Masks: zones and faces are unrecognisable, and nothing else changes."""

from __future__ import annotations

import numpy as np

from edgec.device_agent.config.rules import Zone
from edgec.device_agent.inference.masks import blur, blur_box


def noise() -> np.ndarray:
    return np.random.default_rng(3).integers(0, 255, (120, 160, 3), np.uint8)


def test_a_zone_is_pixelated_and_the_rest_untouched() -> None:
    picture, before = noise(), noise()
    blur(picture, [Zone(name="left", polygon=[(0, 0), (0.5, 0), (0.5, 1), (0, 1)])])
    assert len(np.unique(picture[:, :80].reshape(-1, 3), axis=0)) <= 13 * 13
    assert np.array_equal(picture[:, 82:], before[:, 82:])


def test_a_box_is_enlarged_and_clipped_to_the_picture() -> None:
    picture, before = noise(), noise()
    blur_box(picture, (100, 80, 150, 110), 0.25)
    inner = picture[74:117, 89:160]
    assert len(np.unique(inner.reshape(-1, 3), axis=0)) <= 25
    assert np.array_equal(picture[:70], before[:70])
    assert np.array_equal(picture[:, :85], before[:, :85])
    blur_box(picture, (-50, -50, -20, -20), 0.0)  # outside: nothing to do
    blur_box(picture, (500, 500, 600, 600), 0.1)
