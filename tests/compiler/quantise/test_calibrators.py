"""Calibrators against their definitions, written out with numpy on all values; and the grid's arithmetic."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgec.compiler.quantise.calibrators import (
    CALIBRATORS,
    Histogram,
    entropy,
    grid_of,
    mse,
    percentile,
    range_of,
)

FLOATS = st.floats(-1e6, 1e6, width=32)
SHAPES = st.sampled_from(["normal", "relu", "laplace", "uniform", "outliers"])


def sample(shape: str, seed: int, scale: float, count: int = 20000) -> np.ndarray:
    rng = np.random.default_rng(seed)
    values = {
        "normal": lambda: rng.normal(0.3, 1, count),
        "relu": lambda: np.maximum(rng.normal(size=count), 0),
        "laplace": lambda: rng.laplace(size=count),
        "uniform": lambda: rng.uniform(-1, 3, count),
        "outliers": lambda: np.concatenate([rng.normal(size=count), [40.0]]),
    }[shape]()
    return (values * scale).astype("f4")


def seen(values: np.ndarray, parts: int = 5) -> Histogram:
    histogram = Histogram()
    for part in np.array_split(values, parts):
        histogram.add(part)
    return histogram


@given(SHAPES, st.integers(0, 99), st.floats(1e-6, 1e6), st.integers(1, 9))
@settings(max_examples=40, deadline=None)
def test_a_histogram_counts_every_value_in_its_bin(shape: str, seed: int, scale: float, parts: int) -> None:
    values = sample(shape, seed, scale, 500)
    made = seen(values, parts)
    assert made.counts.sum() == len(values)
    assert (made.low, made.high) == (values.min(), values.max())
    edges = made.centres - made.width / 2
    expected, _ = np.histogram(values.astype("f8"), np.append(edges, edges[-1] + made.width))
    np.testing.assert_array_equal(made.counts, expected)
    assert made.width < 8 * np.abs(values).max() / len(made.counts)  # fine enough, however it has grown


@given(SHAPES, st.integers(0, 99), st.floats(1e-3, 1e3))
@settings(max_examples=20, deadline=None)
def test_percentiles_are_those_of_the_values(shape: str, seed: int, scale: float) -> None:
    values = sample(shape, seed, scale)
    made = seen(values)
    low, high = percentile(made, 99.0)
    ordered, outside = np.sort(values), len(values) // 200
    assert ordered[outside - 1] - 2 * made.width <= low <= ordered[outside] + 2 * made.width
    assert ordered[-outside - 1] - 2 * made.width <= high <= ordered[-outside] + 2 * made.width


@given(SHAPES, st.integers(0, 99), st.floats(1e-3, 1e3))
@settings(max_examples=15, deadline=None)
def test_no_scaled_range_has_a_smaller_squared_error(shape: str, seed: int, scale: float) -> None:
    values = sample(shape, seed, scale)

    def error(low: float, high: float) -> float:
        return float(np.mean((grid_of(low, high, signed=False).rounded(values) - values).astype("f8") ** 2))

    found = error(*mse(seen(values)))
    for share in np.linspace(0.3, 1, 29):
        assert found <= 1.03 * error(float(values.min() * share), float(values.max() * share))


def divergence(values: np.ndarray, limit: float, bins: int, levels: int) -> float:
    """Migacz's definition on the magnitudes: the reference keeps what is clipped, the candidate does not."""
    counts, _ = np.histogram(np.minimum(values, limit * (1 - 1e-9)), bins, (0, limit))
    inside, _ = np.histogram(values[values < limit], bins, (0, limit))
    q = np.zeros(bins)
    for part in np.array_split(np.arange(bins), levels):
        filled = part[inside[part] > 0]
        if len(filled):
            q[filled] = inside[part].sum() / len(filled)
    p, q = counts / counts.sum(), q / q.sum()
    used = p > 0
    return float(np.sum(p[used] * np.log(p[used] / np.maximum(q[used], 1e-12))))


@pytest.mark.parametrize("shape", ["laplace", "outliers"])
def test_entropy_clips_where_the_divergence_is_smallest(shape: str) -> None:
    values = np.abs(sample(shape, 3, 1.0, 200_000))
    made = seen(np.concatenate([values, -values]))
    _, high = entropy(made)
    found = divergence(values, high, 1024, 128)
    limits = np.linspace(values.max() / 8, values.max(), 20)
    assert found <= 1.5 * min(divergence(values, float(limit), 1024, 128) for limit in limits) + 1e-3
    if shape == "outliers":
        assert high < 10  # one value of 40 among 200,000 is not worth nine tenths of the steps


@given(FLOATS, FLOATS, st.booleans())
@settings(max_examples=200, deadline=None)
def test_a_grid_holds_zero_and_rounds_like_the_standard(low: float, high: float, signed: bool) -> None:
    low, high = min(low, high), max(low, high)
    grid = grid_of(low, high, signed=signed)
    limits = np.iinfo(grid.dtype)
    assert limits.min <= grid.zero <= limits.max
    assert grid.rounded(np.zeros(1, "f4"))[0] == 0
    values = np.linspace(low, high, 1001, dtype="f4")
    wanted = np.clip(np.rint(values / grid.scale) + grid.zero, limits.min, limits.max)  # ties to even
    np.testing.assert_array_equal(grid.quantised(values), wanted.astype(grid.dtype))
    inside = np.abs(grid.rounded(values) - values)
    assert inside.max() <= 1.01 * float(grid.scale) + 1e-6 * max(abs(low), abs(high))


@given(FLOATS, FLOATS)
@settings(max_examples=100, deadline=None)
def test_signed_and_unsigned_grids_are_the_same_real_numbers(low: float, high: float) -> None:
    low, high = min(low, high), max(low, high)
    values = np.linspace(low, high, 257, dtype="f4")
    signed, unsigned = grid_of(low, high, signed=True), grid_of(low, high, signed=False)
    assert signed.scale == unsigned.scale
    assert signed.zero == unsigned.zero - 128
    np.testing.assert_array_equal(signed.rounded(values), unsigned.rounded(values))


@pytest.mark.parametrize("name", CALIBRATORS)
@pytest.mark.parametrize("value", [0.0, 3.0, -2.5])
def test_a_constant_is_on_its_grid(name: str, value: float) -> None:
    low, high = range_of(seen(np.full(100, value, "f4")), name)
    np.testing.assert_allclose(grid_of(low, high, signed=False).rounded(np.float32([value, 0])), [value, 0])


def test_values_that_are_not_finite_are_left_out() -> None:
    histogram = Histogram()
    histogram.add(np.float32([np.nan, np.inf, -np.inf]))
    assert histogram.empty
    histogram.add(np.float32([1, np.nan, 2]))
    assert (histogram.low, histogram.high, histogram.counts.sum()) == (1, 2, 2)
