"""Synthetic pictures: the ground truth is what the picture shows."""

from __future__ import annotations

import numpy as np

from edgec.models.synthetic import shapes


def test_truth_lies_where_the_shape_was_painted() -> None:
    """Painting changes the picture inside the box of the truth, and nowhere else."""
    for kind in range(len(shapes.CLASSES)):
        picture = np.full((240, 320, 3), 90, np.float32)
        actor = shapes.Actor(kind, (150.0, 110.0), 40.0, 0.7, (10.0, 200.0, 60.0))
        truth = shapes.paint(picture, [actor])
        assert truth.shape == (1, 5)
        assert truth[0, 0] == kind
        rows, columns = np.nonzero((picture != 90).any(2))
        drawn = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
        assert np.abs(np.array(drawn) - truth[0, 1:]).max() <= 2.5


def test_hidden_and_outside_shapes_are_no_truth() -> None:
    picture = np.full((240, 320, 3), 90, np.float32)
    small = shapes.Actor(0, (150.0, 110.0), 15.0, 0.0, (0.0, 0.0, 0.0))
    large = shapes.Actor(1, (150.0, 110.0), 60.0, 0.0, (255.0, 0.0, 0.0))
    outside = shapes.Actor(2, (-20.0, 110.0), 25.0, 0.0, (0.0, 255.0, 0.0))
    truth = shapes.paint(picture, [small, large, outside])
    assert truth[:, 0].tolist() == [1]


def test_pictures_repeat_with_their_seed() -> None:
    first, truth = shapes.random_picture(np.random.default_rng(5), shapes.ALL)
    again, _ = shapes.random_picture(np.random.default_rng(5), shapes.ALL)
    other, _ = shapes.random_picture(np.random.default_rng(6), shapes.ALL)
    assert first.dtype == np.uint8
    assert first.shape == (240, 320, 3)
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    assert truth.shape[1] == 5
