"""Backgrounds for training and for evaluation are different ones."""

from __future__ import annotations

import numpy as np

from edgec.models.synthetic.backgrounds import HELD_BACK, LOOKALIKES, TRAINING, background


def test_held_back_backgrounds_are_others() -> None:
    assert not set(TRAINING | LOOKALIKES) & set(HELD_BACK)
    for family in (*TRAINING, *LOOKALIKES, *HELD_BACK):
        picture = background(np.random.default_rng(0), family, 120, 160)
        assert picture.shape == (120, 160, 3)
        assert np.isfinite(picture).all()
        assert picture.std() > 0.5
