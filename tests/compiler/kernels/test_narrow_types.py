"""Rounding to narrow types against ml_dtypes, bit for bit."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

from edgec.compiler.kernels.narrow_types import (
    NarrowFloat,
    nearest_bfloat16,
    nearest_float,
    power_of_two,
    rounded,
    wrapped_integer,
)
from tests.compiler.kernels.compiled import evaluate

RNG = np.random.default_rng(2)
X = np.concatenate(
    [
        RNG.standard_normal(2000) * np.exp2(RNG.integers(-12, 9, 2000)),
        [0.0, -0.0, 448, 464, -464.5, 57344, 61440, np.inf, -np.inf],
    ]
).astype("float32")
FLOATS = {
    "float8_e4m3fn": NarrowFloat(3, -6, 448.0),
    "float8_e4m3fnuz": NarrowFloat(3, -7, 240.0, signed_zero=False),
    "float8_e5m2": NarrowFloat(2, -14, 57344.0, infinite=True),
    "float8_e5m2fnuz": NarrowFloat(2, -15, 57344.0, signed_zero=False),
}


@pytest.mark.parametrize("name", FLOATS)
def test_floats_of_eight_bits(name: str) -> None:
    element = nearest_float(FLOATS[name], saturate=False)
    got = evaluate(lambda x: rounded(x, element), X.copy(), out=np.zeros_like(X))
    with np.errstate(invalid="ignore", over="ignore"):
        wanted = X.astype(getattr(ml_dtypes, name)).astype("float32")
    np.testing.assert_array_equal(got, wanted)
    np.testing.assert_array_equal(np.signbit(got[got == 0]), np.signbit(wanted[wanted == 0]))


@pytest.mark.parametrize("name", FLOATS)
def test_saturation_stops_at_the_largest_number(name: str) -> None:
    form = FLOATS[name]
    element = nearest_float(form, saturate=True)
    got = evaluate(lambda x: rounded(x, element), X.copy(), out=np.zeros_like(X))
    assert np.abs(got).max() == form.largest
    assert np.isfinite(got).all()
    beyond = np.abs(X) > form.largest
    np.testing.assert_array_equal(got[beyond], np.sign(X[beyond]) * form.largest)


def test_bfloat16() -> None:
    x = np.append(X, np.array([np.nan, 1 + 2**-8, 1 + 3 * 2**-8], "float32"))
    got = evaluate(lambda a: rounded(a, nearest_bfloat16), x.copy(), out=np.zeros_like(x))
    np.testing.assert_array_equal(got, x.astype(ml_dtypes.bfloat16).astype("float32"))


@pytest.mark.parametrize(("bits", "signed"), [(4, True), (4, False), (2, True), (2, False)])
def test_integers_are_rounded_and_wrap(bits: int, signed: bool) -> None:
    x = np.linspace(-20, 20, 161, dtype="float32")
    got = evaluate(lambda a: rounded(a, wrapped_integer(bits, signed)), x.copy(), out=np.zeros_like(x))
    low = -(1 << bits - 1) if signed else 0
    np.testing.assert_array_equal(got, (np.rint(x) - low) % (1 << bits) + low)


@pytest.mark.parametrize(("round_mode", "saturate"), [("up", True), ("down", True), ("nearest", False)])
def test_powers_of_two(round_mode: str, saturate: bool) -> None:
    x = np.array(
        [0, 2**-127, 1.5 * 2**-127, 2**-126, 0.3, 1, 1.25, 1.5, 2**127, 3e38, np.inf, np.nan], "float32"
    )
    with np.errstate(divide="ignore"):
        logarithm = np.log2(np.clip(x, 2.0**-127, 2.0**127, dtype="float64"))
    power = {"up": np.ceil, "down": np.floor, "nearest": lambda e: np.floor(e + np.log2(4 / 3))}[round_mode](
        logarithm
    )
    wanted = (2.0**power).astype("float32")
    if not saturate:
        wanted[(x < 2**-127) | (x > 1.5 * 2.0**127)] = np.nan
    element = power_of_two(round_mode, saturate=saturate)
    got = evaluate(lambda a: rounded(a, element), x.copy(), out=np.zeros_like(x))
    np.testing.assert_array_equal(got, wanted)
