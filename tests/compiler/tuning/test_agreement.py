"""The candidate that differs from the others is wrong."""

from __future__ import annotations

import ml_dtypes
import numpy as np

from edgec.compiler.tuning.agreement import TOLERANCE, agreeing

RIGHT = np.array([1.0, -2.0, 4.0], np.float32)


def test_the_majority_is_right_whoever_came_first() -> None:
    wrong = RIGHT * np.float32(1.1)
    assert agreeing([wrong, RIGHT, RIGHT.copy()]) == [False, True, True]
    assert agreeing([RIGHT, wrong, RIGHT.copy()]) == [True, False, True]
    assert agreeing([RIGHT]) == [True]
    assert agreeing([]) == []


def test_orders_of_summation_may_differ_and_numbers_that_are_none_may_not() -> None:
    near = RIGHT + np.float32(4.0 * TOLERANCE * 0.9)
    assert agreeing([RIGHT, near]) == [True, True]
    assert agreeing([RIGHT, RIGHT.copy(), np.full(3, np.nan, np.float32)]) == [True, True, False]


def test_results_in_bfloat16_may_fall_on_either_side() -> None:
    one = np.array([1.0, 4.0], ml_dtypes.bfloat16)
    beside = np.array([1.0, 4.0 + 2.0**-5], ml_dtypes.bfloat16)  # the next number
    assert agreeing([one, beside]) == [True, True]
    assert agreeing([one, one.copy(), one * ml_dtypes.bfloat16(1.5)]) == [True, True, False]
