"""Resizing along one axis, of sizes that may be symbolic. Formulas: ONNX operator Resize-19."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tvm import te, tirx

from edgec.compiler.kernels.tir import Tir

COORDINATES = (
    *("half_pixel", "pytorch_half_pixel", "asymmetric", "align_corners", "half_pixel_symmetric"),
    "tf_half_pixel_for_nn",  # of operator sets 11 and 12
)


@dataclass(frozen=True)
class Resizing:
    """How an axis is resized.

    Attributes:
        mode: `nearest`, `linear` or `cubic`.
        way: how a position of the result becomes one of the tensor, as the standard names it.
        rounding: to the nearest element, as the standard names it.
        steepness: the standard's `cubic_coeff_a`.
        inside_only: elements beyond the ends have no weight, instead of being the outermost.
    """

    mode: str
    way: str
    rounding: str
    steepness: float
    inside_only: bool

    def position(self, out: Tir, length: Tir, wanted: Tir, factor: float | None) -> Tir:
        """The place in the tensor of an element of the result, fp32."""
        place, half, zero = _real(out), _f32(0.5), _f32(0.0)
        scale = _real(wanted) / _real(length) if factor is None else _f32(factor)
        if self.way == "asymmetric":
            return place / scale
        if self.way == "align_corners":
            exact = _real(wanted) if factor is None else _real(length) * _f32(factor)
            several = exact != _f32(1.0)
            last = tirx.Select(several, exact - _f32(1.0), _f32(1.0))
            return tirx.Select(several, place * _real(length - 1) / last, zero)
        if self.way == "tf_half_pixel_for_nn":
            return (place + half) / scale
        middle = (place + half) / scale - half
        if self.way == "pytorch_half_pixel":
            return tirx.Select(wanted > 1, middle, zero)
        if self.way == "half_pixel_symmetric" and factor is not None:
            share = _real(wanted) / (_f32(factor) * _real(length))
            return _real(length) * half * (_f32(1.0) - share) + middle
        return middle

    def whole(self, place: Tir) -> Tir:
        """The nearest whole number."""
        if self.rounding == "floor":
            return tirx.floor(place)
        if self.rounding == "ceil":
            return tirx.ceil(place)
        half = _f32(0.5)
        return tirx.ceil(place - half) if self.rounding == "round_prefer_floor" else tirx.floor(place + half)

    def shares(self, fraction: Tir) -> list[tuple[int, Tir]]:
        """The elements around a place, counted from the one before it, and their weights."""
        one = _f32(1.0)
        if self.mode == "linear":
            return [(0, one - fraction), (1, fraction)]
        a = _f32(self.steepness)

        def near(d: Tir) -> Tir:
            return ((a + _f32(2.0)) * d - (a + _f32(3.0))) * d * d + one

        def far(d: Tir) -> Tir:
            return ((a * d - _f32(5.0) * a) * d + _f32(8.0) * a) * d - _f32(4.0) * a

        rest = one - fraction
        return [(-1, far(fraction + one)), (0, near(fraction)), (1, near(rest)), (2, far(rest + one))]


def resized(x: te.Tensor, axis: int, shape: Sequence[Tir], how: Resizing, factor: float | None) -> te.Tensor:
    """One axis resized.

    Args:
        x: the tensor.
        axis: the axis.
        shape: of the result.
        how: the method.
        factor: by which the axis grows; None where the sizes decide.
    """
    length, wanted = x.shape[axis], shape[axis]

    def at(index: Sequence[Tir], place: Tir) -> Tir:
        inside = tirx.max(tirx.min(place, length - 1), tirx.const(0, "int64"))
        return x[(*index[:axis], inside, *index[axis + 1 :])]

    def element(*index: Tir) -> Tir:
        place = how.position(index[axis], length, wanted, factor)
        if how.mode == "nearest":
            return at(index, tirx.Cast("int64", how.whole(place)))
        low = tirx.floor(place)
        first = tirx.Cast("int64", low)
        total: Tir | None = None
        whole: Tir | None = None
        for step, share in how.shares(place - low):
            if how.inside_only:
                inside = tirx.all(first + step >= 0, first + step < length)
                share = tirx.Select(inside, share, _f32(0.0))
                whole = share if whole is None else whole + share
            part = at(index, first + step) * share.astype(x.dtype)
            total = part if total is None else total + part
        return total if whole is None else total / whole.astype(x.dtype)

    return te.compute(tuple(shape), element, name="resized")


def _real(value: Tir) -> Tir:
    return tirx.Cast("float32", value) if not isinstance(value, int) else _f32(float(value))


def _f32(value: float) -> Tir:
    return tirx.const(value, "float32")
