"""Outputs compared with their reference: what counts as equal, and how a difference is reported."""

from __future__ import annotations

import numpy as np
import pytest

from edgec.compiler.verify.compare import compare, cosine


def f32(*values: float) -> np.ndarray:
    return np.array(values, np.float32)


@pytest.mark.parametrize(("difference", "ok"), [(0.9e-3, True), (1.1e-3, False)])
def test_the_budget_is_relative_to_the_largest_value(difference: float, ok: bool) -> None:
    error = compare("y", f32(0, 0, -100), f32(100 * difference, 0, -100), 1e-3)
    assert error.ok == ok
    assert error.max_rel == pytest.approx(difference, rel=1e-4)
    assert error.max_abs == pytest.approx(100 * difference, rel=1e-4)


def test_not_a_number_and_infinity_have_to_be_in_the_same_places() -> None:
    reference = f32(np.nan, np.inf, -np.inf, 1)
    assert compare("y", reference, reference.copy(), 1e-6).ok
    for wrong in (
        f32(0, np.inf, -np.inf, 1),
        f32(np.nan, -np.inf, -np.inf, 1),
        f32(np.nan, np.inf, -np.inf, np.nan),
    ):
        error = compare("y", reference, wrong, 1e-6)
        assert (error.ok, error.mismatches) == (False, 1)


@pytest.mark.parametrize("dtype", [np.bool_, np.int8, np.uint8, np.int64])
def test_integers_have_to_be_equal(dtype: type) -> None:
    a, b = np.array([0, 1, 1], dtype), np.array([0, 1, 0], dtype)
    assert compare("y", a, a.copy(), 0.5).ok
    error = compare("y", a, b, 0.5)
    assert not error.ok
    assert error.verdict == "1 of 3 values differ"


def test_bytes_that_stand_for_real_numbers_may_differ_as_such() -> None:
    a, b = np.array([100, 50], np.int8), np.array([100, 51], np.int8)
    assert compare("y", a, b, 0.05, stored=True).ok
    assert not compare("y", a, b, 0.005, stored=True).ok
    assert not compare("y", a.astype(np.int32), b.astype(np.int32), 0.05, stored=True).ok


def test_twice_the_references_own_spread_is_accepted() -> None:
    assert compare("y", f32(1), f32(1.2), 1e-6, spread=0.11).ok
    assert not compare("y", f32(1), f32(1.2), 1e-6, spread=0.09).ok


def test_few_values_on_a_grid_may_differ_by_a_step() -> None:
    reference = np.arange(256, dtype=np.float32) * np.float32(0.25)
    same = [reference, reference]
    for count, steps, ok in ((1, 1, True), (4, 1, True), (5, 1, False), (1, 2, False)):
        got = reference.copy()
        got[:count] += np.float32(0.25 * steps)
        assert compare("y", reference, got, 0.05, perturbed=same, grid=0.25).ok == ok
        assert not compare("y", reference, got, 0.05, perturbed=same).ok


@pytest.mark.parametrize("dtype", ["int16", "float32"])
def test_all_values_may_differ_by_a_step_of_16_bits(dtype: str) -> None:
    reference = np.arange(3000, 3010).astype(dtype)
    for steps, grid, ok in ((1, 1.0, True), (2, 1.0, False), (1, 0.0, False)):
        got = reference + np.array(steps, dtype)
        same = [reference, reference]
        assert compare("y", reference, got, 0.05, stored=True, perturbed=same, grid=grid).ok == ok


@pytest.mark.parametrize("got", [np.zeros((2, 1), np.float32), np.zeros(2, np.float64)])
def test_another_shape_or_type_is_wrong_altogether(got: np.ndarray) -> None:
    error = compare("y", np.zeros(2, np.float32), got, 1.0)
    assert not error.ok
    assert error.mismatches == 2


def test_outputs_of_zeros_and_of_nothing_are_equal() -> None:
    assert compare("y", f32(0, 0), f32(0, 1e-7), 1e-9).ok
    assert not compare("y", f32(0, 0), f32(0, 1e-3), 1e-3).ok
    assert compare("y", f32(), f32(), 1e-9).ok


def test_the_cosine_tells_directions_apart() -> None:
    assert cosine(np.array([1.0, 0]), np.array([2.0, 0])) == 1
    assert cosine(np.array([1.0, 0]), np.array([0, 3.0])) == 0
    assert cosine(np.zeros(2), np.zeros(2)) == 1
    assert cosine(np.zeros(2), np.ones(2)) == 0


def test_outputs_of_nothing_but_nan_are_undefined() -> None:
    nothing = f32(np.nan, np.nan)
    error = compare("y", nothing, nothing.copy(), 1e-6)
    assert (error.ok, error.undefined, error.verdict) == (True, True, "every value is NaN")
    assert not compare("y", f32(np.nan, 1), f32(np.nan, 1), 1e-6).undefined
    assert not compare("y", f32(), f32(), 1e-6).undefined
    assert not compare("y", np.array([0]), np.array([0]), 1e-6).undefined
    assert compare("y", nothing, f32(0, 0), 1e-6).verdict == "2 of 2 values differ"
