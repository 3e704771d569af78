"""Expected moments beside those of many samples."""

from __future__ import annotations

import numpy as np
import pytest

from edgec.models.graph.activation_statistics import Moments, coarse, joined, through_weights

MOMENTS = Moments(np.array([0.0, 1.0, -2.0]), np.array([1.0, 0.25, 4.0]))


def samples(seed: int) -> np.ndarray:
    noise = np.random.default_rng(seed).standard_normal((3, 200_000))
    return MOMENTS.mean[:, None] + np.sqrt(MOMENTS.var)[:, None] * noise


def close(found: Moments, values: np.ndarray) -> None:
    np.testing.assert_allclose(found.mean, values.mean(1), atol=0.05)
    np.testing.assert_allclose(found.var, values.var(1), rtol=0.05)


def test_through_a_function() -> None:
    close(MOMENTS.through(lambda v: np.maximum(v, 0)), np.maximum(samples(0), 0))


def test_sums_products_and_lines() -> None:
    a, b = samples(0), samples(1)
    close(MOMENTS.plus(MOMENTS), a + b)
    close(MOMENTS.times(MOMENTS), a * b)
    close(MOMENTS.affine(np.array(3.0), np.array(-1.0)), 3 * a - 1)


def test_a_maximum_lies_above_the_mean() -> None:
    largest = MOMENTS.of_maximum()
    assert (largest.mean > MOMENTS.mean).all()
    assert (largest.var < MOMENTS.var).all()


def test_through_weights_of_each_group() -> None:
    weight = np.array([[[1.0], [2.0]], [[1.0], [-1.0]]], np.float32).reshape(2, 2, 1, 1)
    moments = Moments(np.array([1.0, 2.0, 3.0, 4.0]), np.ones(4))
    found = through_weights(moments, weight, 2)
    assert found.mean.tolist() == [1 + 4, 3 - 4]
    assert found.var.tolist() == [5, 2]


def test_joined_and_picked() -> None:
    both = joined([MOMENTS, MOMENTS.shrunk(0.5)])
    assert both.mean.tolist() == [0, 1, -2, 0, 1, -2]
    assert both.pick(np.array([5, 0])).var.tolist() == [2.0, 1.0]


@pytest.mark.parametrize("value", [1.0, -3.14159265, 1e-20, 0.0])
def test_coarse_numbers_forget_their_last_bits(value: float) -> None:
    near = np.nextafter(np.array([value]), np.inf)
    assert coarse(np.array([value])) == coarse(near)
    assert abs(float(coarse(np.array([value]))[0]) - value) <= abs(value) / 4096
