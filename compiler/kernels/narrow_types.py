"""Rounding to narrow types (at most 16 bits) without CPU arithmetic: float32 values on the type's grid."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tvm import te, tirx

from edgec.compiler.kernels.tir import Tir, f32, i32


@dataclass(frozen=True)
class NarrowFloat:
    """A narrow floating-point type.

    Attributes:
        fraction: bits of the fraction.
        smallest: exponent of the smallest normal number.
        largest: the largest finite number.
        infinite: whether it has infinities.
        signed_zero: whether it has a negative zero.
        nan: whether it has a NaN.
    """

    fraction: int
    smallest: int
    largest: float
    infinite: bool = False
    signed_zero: bool = True
    nan: bool = True


Element = Callable[[Tir], Tir]


def rounded(x: Tir, element: Element) -> Tir:
    """Each element of a float32 tensor, rounded."""
    return te.compute(x.shape, lambda *place: element(x(*place)), name="narrowed")


def nearest_float(form: NarrowFloat, *, saturate: bool) -> Element:
    """The nearest number of the type, ties to even: a whole number of steps that are powers of two."""

    def element(x: Tir) -> Tir:
        exponent = (tirx.reinterpret("int32", x) >> i32(23)) & i32(255)
        exponent = tirx.max(exponent, i32(127 + form.smallest))
        step = tirx.reinterpret("float32", (exponent - i32(form.fraction)) << i32(23))
        y = tirx.nearbyint(x / step) * step
        top, over = f32(form.largest), tirx.abs(y) > f32(form.largest)
        if saturate or not form.nan:
            y = tirx.Select(over, tirx.Select(x < f32(0.0), f32(0.0) - top, top), y)
        elif form.infinite:
            infinity = tirx.reinterpret("float32", i32(0x7F800000))
            y = tirx.Select(over, tirx.Select(x < f32(0.0), f32(0.0) - infinity, infinity), y)
        else:
            y = tirx.Select(over, tirx.reinterpret("float32", i32(0x7FC00000)), y)
        if not form.signed_zero:
            y = tirx.Select(tirx.abs(y) == f32(0.0), f32(0.0), y)
        if not form.nan:
            y = tirx.Select(tirx.isnan(x), top, y)
        return y

    return element


def nearest_bfloat16(x: Tir) -> Tir:
    """The nearest bfloat16, ties to even: the upper half of a float32, plus one where the lower half rounds up."""
    bits = tirx.reinterpret("int32", x)
    rounded = (bits + i32(0x7FFF) + ((bits >> i32(16)) & i32(1))) & i32(-0x10000)
    return tirx.Select(tirx.isnan(x), x, tirx.reinterpret("float32", rounded))


def wrapped_integer(bits: int, signed: bool) -> Element:
    """The nearest integer, ties to even, of so many bits; it wraps on overflow."""

    def element(x: Tir) -> Tir:
        whole = tirx.nearbyint(x) if str(x.ty.dtype).startswith("float") else x
        low = whole.astype("int32") & i32((1 << bits) - 1)
        if signed:
            low = tirx.Select(low >= i32(1 << bits - 1), low - i32(1 << bits), low)
        return low.astype("float32")

    return element


def power_of_two(round_mode: str, *, saturate: bool) -> Element:
    """The power of two next to a positive number, from 2^-127 to 2^127.

    Args:
        round_mode: `up`, `down` or `nearest`, ties up.
        saturate: numbers out of range become the nearest in it; NaN otherwise.
    """
    # The part of a fraction from which on the exponent grows. 2^-127 is subnormal, and half of its fraction.
    normal = {"up": 1, "nearest": 0x400000, "down": 0x800000}[round_mode]
    subnormal = {"up": 0x400001, "nearest": 0x600000, "down": 0x800000}[round_mode]

    def element(x: Tir) -> Tir:
        bits = tirx.reinterpret("int32", x)
        exponent, fraction = (bits >> i32(23)) & i32(255), bits & i32(0x7FFFFF)
        tiny = exponent == i32(0)
        raised = exponent + tirx.Select(
            fraction >= tirx.Select(tiny, i32(subnormal), i32(normal)), i32(1), i32(0)
        )
        nan = tirx.isnan(x)
        if saturate:
            raised = tirx.min(raised, i32(254))
        else:
            nan = tirx.any(nan, raised >= i32(255), tirx.all(tiny, fraction < i32(0x400000)))
        y = tirx.Select(raised == i32(0), i32(0x400000), raised << i32(23))
        return tirx.reinterpret("float32", tirx.Select(nan, i32(0x7FC00000), y))

    return element
