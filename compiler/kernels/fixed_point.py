"""Sigmoid and tanh in 16-bit fixed point, as TensorFlow Lite defines them for recurrent layers, as tables.

A number of `k` integer bits is an int16 in units of `2^(k - 15)`; results have none. The definition is gemmlowp's: the
exponential is a polynomial on a quarter of the unit and a product of constants, the quotient three steps of Newton's
method, and every product of two int16 is rounded to int16, halves up. So results differ from the exact function by up
to twelve units, and are the same on every processor.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
CODES = np.arange(-(1 << 15), 1 << 15, dtype=np.int64)
ONE = (1 << 15) - 1
MOST_BITS = 6  # integer bits of a number whose tanh is defined
# Constants as gemmlowp has them, in units of 2^-31; 48/17 and 32/17 in units of 2^-29.
EXP_EIGHTH, THIRD = 1895147668, 715827883
START, SLOPE = 1515870810, -1010580540
# exp(-2^k) for the bit k of the exponent
POWERS = (
    (-2, 1672461947), (-1, 1302514674), (0, 790015084), (1, 290630308),
    (2, 39332535), (3, 720401), (4, 242),
)  # fmt: skip


def sigmoid() -> Ints:
    """The sigmoid of every int16 with 3 integer bits, from -32768 on."""
    positive = _limited(_reciprocal(_exponential(-np.abs(CODES), 3)) << 1)
    return np.where(CODES == 0, 1 << 14, np.where(CODES > 0, positive, ONE - positive))


def tanh(bits: int) -> Ints:
    """The hyperbolic tangent of every int16 with some integer bits (0 to 6), from -32768 on."""
    size = _limited((_reciprocal(_exponential(-np.abs(CODES), bits + 1)) - (1 << 13)) << 2)
    return np.sign(CODES) * size


def _limited(value: Ints) -> Ints:
    return np.clip(value, -ONE - 1, ONE)


def _wrapped(value: Ints) -> Ints:
    return np.asarray(value.astype(np.int16).astype(np.int64))


def _product(a: Ints, b: Ints | int) -> Ints:
    """The product of two fractions of 15 bits."""
    return np.asarray(np.minimum((a * b + (1 << 14)) >> 15, ONE))


def _halved(value: Ints, times: int) -> Ints:
    """Divided by a power of two; halves are rounded away from zero."""
    return np.asarray((value + (1 << (times - 1)) - (value < 0)) >> times)


def _constant(value: int) -> int:
    """A constant of 32 bits in 16."""
    return (value + (1 << 15) - (value < 0)) >> 16


def _exponential(x: Ints, bits: int) -> Ints:
    """`exp(x)` of numbers up to 0 with some integer bits."""
    fraction = 15 - bits
    quarter = 1 << (fraction - 2)
    near = (x & (quarter - 1)) - quarter
    result = _exponential_of_fraction(_limited(near << bits))
    remaining = near - x
    for power, factor in POWERS:
        if bits > power:
            chosen = (remaining >> (fraction + power)) & 1 == 1
            result = np.where(chosen, _product(result, _constant(factor)), result)
    if bits > 5:  # below -32 it is 0
        result = np.where(x < -(32 << fraction), 0, result)
    return np.where(x == 0, ONE, result)


def _exponential_of_fraction(x: Ints) -> Ints:
    """`exp(x)` from -1/4 on and below 0, by a polynomial around -1/8."""
    x = x + (1 << 12)
    squared = _product(x, x)
    fourth = _halved(_product(squared, squared), 2)
    rest = _product(_wrapped(fourth + _product(squared, x)), _constant(THIRD))
    rest = _halved(_wrapped(rest + squared), 1)
    start = _constant(EXP_EIGHTH)
    return _limited(start + _product(_wrapped(x + rest), start))


def _reciprocal(x: Ints) -> Ints:
    """`2 / (1 + x)` for fractions from 0 to 1, with two integer bits."""
    half = (x + ONE + 1) >> 1
    y = _constant(START) + _product(half, _constant(SLOPE))
    for _ in range(3):
        left = _wrapped((1 << 13) - _product(half, y))
        y = _wrapped(y + _limited(_product(y, left) << 2))
    return y
