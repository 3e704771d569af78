"""Pooling and resizing: values and shapes, with uneven ends."""

from __future__ import annotations

import numpy as np
import pytest

from tests.models.graph.operators import compute, normal


@pytest.mark.parametrize(
    ("size", "ceil", "expected"), [(7, False, 3), (8, False, 3), (8, True, 4), (7, True, 3)]
)
def test_max_pool_rounds_as_it_is_told(size: int, ceil: bool, expected: int) -> None:
    x = normal(1, 2, size, size)
    values, _, _ = compute(lambda g, x: g.max_pool(x, 3, 2, ceil=ceil), x)
    assert values.shape == (1, 2, expected, expected)
    assert values[0, 0, 1, 1] == x[0, 0, 2:5, 2:5].max()
    assert values[0, 0, -1, -1] == x[0, 0, 2 * expected - 2 :, 2 * expected - 2 :][:3, :3].max()


def test_avg_pool_counts_its_padding() -> None:
    x = np.ones((1, 1, 4, 4), np.float32)
    values, _, _ = compute(lambda g, x: g.avg_pool(x, (2, 2), 2, 1), x)
    assert values[0, 0].tolist() == [[0.25, 0.5, 0.25], [0.5, 1.0, 0.5], [0.25, 0.5, 0.25]]


def test_global_pool_is_the_mean() -> None:
    x = normal(1, 3, 20, 20)
    values, y, _ = compute(lambda g, x: g.global_pool(x), x)
    np.testing.assert_allclose(values.reshape(-1), x.mean((2, 3)).reshape(-1), rtol=1e-4, atol=1e-6)
    assert y.moments is not None
    assert (y.moments.var < 0.1).all()


def test_resize2x_repeats_each_value() -> None:
    x = normal(1, 2, 3, 2)
    values, _, _ = compute(lambda g, x: g.resize2x(x), x)
    assert np.array_equal(values, x.repeat(2, axis=2).repeat(2, axis=3))
