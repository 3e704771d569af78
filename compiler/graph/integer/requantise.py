"""The definition of requantisation: a sum of integers with real factors becomes an integer on another grid.

    sum     = integers times integers, added up exactly in int32 (or int64)
    code    = saturate(round_half_to_even(float32(sum) * multiplier) + zero)

`float32(sum)` is rounded to nearest even, `multiplier` is `scale_x * scale_w / scale_y`, each operation in float32
(as ONNX Runtime and XNNPACK compute it), when the model is compiled. There is one multiplication and no addition in
floating point before the rounding, so nothing can be contracted or reordered: every CPU gives the same bits.

Several terms become one sum before it: each is multiplied by an integer, so that all have one unit. For two 8-bit
tensors the unit is a power of two of a step, and the sum is rounded by a shift (`shifted`):

    code    = saturate(((sum + 2**(shift - 1)) >> shift) + zero)
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from edgec.compiler.graph.integer.values import BYTES, Linear, Term
from edgec.compiler.graph.rewrite import Array, dtype_of

INT32, INT64 = 2.0**31 - 1, 2.0**62
SMALL = 2.0**-10  # of a step of the result: an error that is accepted where a common unit is chosen
MOST_ERROR = 2.0**-6  # the same where int32 holds no finer unit; beyond it the sums are made in int64
MOST_SHIFT = 22


@dataclass(frozen=True)
class Common:
    """A linear value in one unit: `(sum of data * multiplier + constant) * unit`.

    Attributes:
        multipliers: int64, one for each term.
        constant: int64.
        unit: float64.
        dtype: int32 or int64, which holds every partial sum.
        count: what the unit was divided by, in an average.
    """

    multipliers: tuple[Array, ...]
    constant: Array
    unit: Array
    dtype: str
    count: int = 1


def common(linear: Linear, scale: Array) -> Common | None:
    """The value in one unit, so fine that nothing shows at steps of `scale`; None where no integers hold it."""
    if not linear.terms:
        return None
    best: tuple[float, Common] | None = None
    anchor = max(range(len(linear.terms)), key=lambda i: linear.terms[i].most)
    for shift in range(MOST_SHIFT + 1):
        made = in_units(linear, _unit(linear.terms[anchor].factor, shift), "int32")
        error = error_of(linear, made, scale)
        if largest_sum(linear.terms, made) > INT32:
            break
        if best is None or error < best[0]:
            best = error, made
        if error <= SMALL:
            break
    if best is not None and best[0] <= MOST_ERROR:
        return best[1]
    reach = sum(float(np.max(np.abs(t.factor) / scale)) * (t.most + _most(t.shift)) for t in linear.terms)
    reach += float(np.max(np.abs(linear.offset) / scale))
    if not np.isfinite(reach):
        return None
    bits = int(np.floor(np.log2(INT64 / max(reach, 1.0)))) - 1
    wide = in_units(linear, scale * 2.0 ** -min(bits, 60), "int64")
    return wide if error_of(linear, wide, scale) <= MOST_ERROR else None


@dataclass(frozen=True)
class Shifted:
    """The sum of two 8-bit tensors in units of `2**-shift` steps: `(sum of data * multiplier + constant) >> shift`.

    Attributes:
        multipliers: of both, int64.
        constant: with what rounds half a step up, int64.
        shift: bits.
    """

    multipliers: tuple[Array, ...]
    constant: Array
    shift: int


MULTIPLIER_BITS = 20  # the larger multiplier is at least 2**20 and less than 2**21


def shifted(linear: Linear, scale: Array) -> Shifted | None:
    """Two 8-bit tensors that are added, rounded by a shift; None for any other value.

    The multipliers are those of XNNPACK's quantised addition, so that models give the same integers as in LiteRT.
    """
    terms = linear.terms
    bytes_ = all(dtype_of(t.data) in BYTES and t.factor.size == 1 and t.shift.size == 1 for t in terms)
    if len(terms) != 2 or not bytes_ or scale.size != 1 or linear.offset.any():
        return None
    ratios = [np.float32(t.factor.reshape(())) / np.float32(scale.reshape(())) for t in terms]
    largest = float(np.max(np.abs(ratios)))
    if not 2.0**-10 <= largest < 2.0**8:
        return None
    shift = MULTIPLIER_BITS - int(np.floor(np.log2(largest)))
    multipliers = tuple(np.rint(np.float64(ratio) * 2.0**shift).astype(np.int64) for ratio in ratios)
    offset = sum(int(m) * int(t.shift.reshape(())) for m, t in zip(multipliers, terms, strict=True))
    return Shifted(multipliers, np.asarray(offset + (1 << (shift - 1))), shift)


def _most(array: Array) -> float:
    return float(np.max(np.abs(array), initial=0.0))


def _unit(factor: Array, shift: int) -> Array:
    """The factor as a unit, finer by some bits; where the factor is 0 (a channel without weights), another one."""
    size = np.abs(factor)
    largest = float(size.max(initial=0.0)) or 1.0
    return np.asarray(np.where(size == 0, largest, size) * 2.0**-shift)


def in_units(linear: Linear, unit: Array, dtype: str) -> Common:
    """The value in a given unit, whatever error that makes."""
    multipliers = tuple(np.rint(term.factor / unit) for term in linear.terms)
    constant = np.rint(linear.offset / unit) + sum(
        (m * t.shift for m, t in zip(multipliers, linear.terms, strict=True)), np.zeros(())
    )
    bounded = [np.clip(m, -INT64, INT64).astype(np.int64) for m in multipliers]
    count = linear.terms[0].count if len(linear.terms) == 1 else 1
    return Common(tuple(bounded), np.clip(constant, -INT64, INT64).astype(np.int64), unit, dtype, count)


def error_of(linear: Linear, made: Common, scale: Array) -> float:
    """The largest error of the multipliers and the constant, in steps of the result."""
    total = np.abs(linear.offset - np.rint(linear.offset / made.unit) * made.unit)
    for term, multiplier in zip(linear.terms, made.multipliers, strict=True):
        total = total + np.abs(term.factor - multiplier * made.unit) * (term.most + np.abs(term.shift))
    return float(np.max(total / scale, initial=0.0))


def largest_sum(terms: tuple[Term, ...], made: Common) -> float:
    """The largest magnitude that a partial sum can have."""
    total = np.abs(made.constant).astype(np.float64)
    for term, multiplier in zip(terms, made.multipliers, strict=True):
        total = total + np.abs(multiplier.astype(np.float64)) * term.most
    return float(np.max(total, initial=0.0))


def multiplier_of(made: Common, scale: Array) -> Array:
    """The float32 that sums are multiplied by: the products and the quotient are rounded to float32 one by one.

    Scales at the ends of float32 give infinities.
    """
    with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
        unit = np.asarray(made.unit * made.count).astype(np.float32)
        return np.asarray(unit / (scale.astype(np.float32) * np.float32(made.count)), np.float32)


def limits_of(linear: Linear, scale: Array, zero: Array, dtype: str) -> tuple[Array, Array]:
    """The least and the largest code: of the type, or of the value's own limits."""
    info = np.iinfo(dtype)
    low, high = (
        np.clip(np.rint(limit / scale) + zero, info.min, info.max) for limit in (linear.low, linear.high)
    )
    return low, high


def codes_by_arithmetic(
    linear: Linear, made: Common, codes: Array, scale: Array, zero: Array, dtype: str
) -> Array:
    """The codes that a value of one term has for each code of that term: what the kernels compute."""
    sums = codes.astype(np.int64) * made.multipliers[0].reshape(()) + made.constant.reshape(())
    low, high = limits_of(linear, scale, zero, dtype)
    with np.errstate(over="ignore", invalid="ignore"):
        real = sums.astype(np.float32) * multiplier_of(made, scale).reshape(())
    return np.asarray(np.clip(np.rint(real) + zero.reshape(()), low.reshape(()), high.reshape(())))


def codes_by_table(real: Array, scale: Array, zero: Array, dtype: str) -> Array:
    """The codes of values that are known when the model is compiled: by a division in float32."""
    info = np.iinfo(dtype)
    with np.errstate(all="ignore"):
        steps = real.astype(np.float32) / scale.reshape(()).astype(np.float32)
    return np.asarray(np.clip(np.rint(steps.astype(np.float64)) + zero.reshape(()), info.min, info.max))


def as_table(
    linear: Linear, codes: Array, wanted: Array, scale: Array, zero: Array, dtype: str
) -> Linear | None:
    """A line of one term whose integer arithmetic gives the wanted codes; None where there is none.

    Where a value lies in the middle between two codes, a unit more or less decides. The kernel of a line is faster
    than a table.

    Args:
        codes: those of the term's data.
        wanted: the code of each.
    """
    made = common(linear, scale)
    for units in (0, 1, -1, 2, -2):
        if made is None or made.multipliers[0].size != 1 or made.constant.size != 1:
            return None
        tried = replace(linear, offset=linear.offset + units * made.unit)
        by_units = common(tried, scale)
        if by_units is not None and by_units.multipliers[0].size == 1:
            found = codes_by_arithmetic(tried, by_units, codes, scale, zero, dtype)
            if (found == wanted).all():
                return tried
    return None
