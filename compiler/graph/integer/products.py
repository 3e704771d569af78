"""Convolutions and matrix products of quantised tensors, exact in int32.

With `x` and `w` the stored integers, `X` and `W` their zero points, a sum of real products is

    s_x * s_w * (sum(x * (w - W)) - X * sum(w - W))

Weights become int8 with their zero point taken out. Where `w - W` does not fit (unsigned weights of old quantisers),
`w - 128` is multiplied instead, and a sum over the window of `x` makes up for the rest. Padding is padding with `X`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from tvm import relax
from tvm.ir import Call

from edgec.compiler.graph.integer.requantise import INT32, INT64
from edgec.compiler.graph.integer.rewriter import Rewriter, rule
from edgec.compiler.graph.integer.values import STORED, Coded, Linear, Term, Value, magnitude
from edgec.compiler.graph.rewrite import Array, Expr, constant, shape_of

NOTHING = np.zeros(())


@dataclass(frozen=True)
class Weights:
    """Constant weights as the kernels take them.

    Attributes:
        stored: int8.
        rest: what is missing of each output channel's weights, the same for all of them (int64, one per channel).
        whole: the weights without zero point, int64.
    """

    stored: Array
    rest: Array | None
    whole: Array


def weights_of(value: Coded, inner: tuple[int, ...]) -> Weights | None:
    """Constant weights as int8; None for wider ones.

    Args:
        value: the weights.
        inner: the axes that are summed over.
    """
    assert value.array is not None
    whole = value.array.astype(np.int64) - value.zero
    low, high = whole.min(axis=inner, keepdims=True), whole.max(axis=inner, keepdims=True)
    if low.min() >= -128 and high.max() <= 127:
        return Weights(whole.astype(np.int8), None, whole)
    if (high - low).max() > 255:
        return None
    rest = np.where((low >= -128) & (high <= 127), 0, low + 128)
    return Weights((whole - rest).astype(np.int8), rest, whole)


def _is_stored(value: Value | None) -> bool:
    return isinstance(value, Coded) and value.dtype in STORED


def _sums_type(most: float) -> str | None:
    if most <= INT32:
        return "int32"
    return "int64" if most <= INT64 else None


@rule("nn.conv1d", "nn.conv2d", "nn.conv3d")
def _convolution(r: Rewriter, call: Call) -> Value | None:
    x, w = r.value(call.args[0]), r.value(call.args[1])
    if not isinstance(x, Coded) or not isinstance(w, Coded) or w.array is None or not x.per_tensor:
        return None
    if not _is_stored(x) or x.array is not None or not str(call.attrs.data_layout).startswith("NC"):
        return None
    if not str(call.attrs.kernel_layout).startswith("OI"):
        return None
    rank = w.array.ndim
    inner = tuple(range(1, rank))
    if any(a.size > 1 and a.shape[1:] != (1,) * (rank - 1) for a in (w.scale, w.zero)):
        return None  # not one scale per output channel
    weights = weights_of(w, inner)
    if weights is None:
        return None
    zero = int(x.zero.reshape(()))
    sizes = np.abs(weights.whole if weights.rest is None else weights.stored.astype(np.int64)).sum(axis=inner)
    most = float(sizes.max(initial=0)) * magnitude(x.dtype)
    dtype = _sums_type(most)
    if dtype is None:
        return None
    data, conv = _padded(r, x.data, call, zero, dtype)
    channelwise = (1, -1, *[1] * (rank - 2))
    made = conv(data, weights.stored)
    shift = (-zero * weights.whole.sum(axis=inner)).reshape(channelwise)
    factor = w.scale.reshape(channelwise if w.scale.size > 1 else ()) * x.scale.reshape(())
    if weights.rest is not None:
        made, most = _with_rest(r, made, data, conv, weights, int(call.attrs.groups), most, x.dtype)
        if most > INT32 and dtype == "int32":
            return None
    return Linear((Term(made, shift, factor, most),), NOTHING)


def _with_rest(
    r: Rewriter,
    made: Expr,
    data: Expr,
    conv: Callable[[Expr, Array], Expr],
    weights: Weights,
    groups: int,
    most: float,
    dtype: str,
) -> tuple[Expr, float]:
    """The sums with what the stored weights lack: a sum over each window, once for each group."""
    assert weights.rest is not None
    per_group = weights.stored.shape[0] // groups
    ones = np.ones((groups, *weights.stored.shape[1:]), np.int8)
    windows = conv(data, ones)
    if groups > 1 and per_group > 1:
        windows = r.emit(relax.op.repeat(windows, per_group, axis=1))
    rest = weights.rest.reshape(1, -1, *[1] * (weights.stored.ndim - 2))
    part = r.emit(relax.op.multiply(windows, constant(rest.astype(np.int32))))
    taps = math.prod(weights.stored.shape[1:])
    most += float(np.abs(rest).max()) * taps * magnitude(dtype)
    return r.emit(relax.op.add(made, part)), most


def _padded(
    r: Rewriter, data: Expr, call: Call, zero: int, dtype: str
) -> tuple[Expr, Callable[[Expr, Array], Expr]]:
    """The input with its padding, as an image, and the convolution of it with weights."""
    attrs = call.attrs
    spatial = len(attrs.strides)
    pads = [int(p) for p in attrs.padding]
    strides, dilations = ([int(v) for v in values] for values in (attrs.strides, attrs.dilation))
    if any(pads) and zero:
        widths = [0, 0, 0, 0]
        for axis in range(spatial):
            widths += [pads[axis], pads[axis + spatial]]
        data = r.emit(relax.op.nn.pad(data, widths, pad_value=zero))
        pads = [0] * (2 * spatial)
    if spatial == 1:  # as an image of height 1, which the kernels know
        n, c, width = shape_of(data)
        data = r.emit(relax.op.reshape(data, (n, c, 1, width)))
        pads, strides, dilations = [0, pads[0], 0, pads[1]], [1, *strides], [1, *dilations]
    operator: Any = relax.op.nn.conv3d if spatial == 3 else relax.op.nn.conv2d
    layouts = ("NCDHW", "OIDHW") if spatial == 3 else ("NCHW", "OIHW")

    def conv(x: Expr, weight: Array) -> Expr:
        weight = weight[:, :, None, :] if spatial == 1 else weight
        made = r.emit(
            operator(
                x,
                constant(weight),
                strides=strides,
                padding=pads,
                dilation=dilations,
                groups=int(attrs.groups),
                data_layout=layouts[0],
                kernel_layout=layouts[1],
                out_dtype=dtype,
            )
        )
        if spatial != 1:
            return made
        n, c, _, width = shape_of(made)
        return r.emit(relax.op.reshape(made, (n, c, width)))

    return data, conv


@rule("matmul")
def _matmul(r: Rewriter, call: Call) -> Value | None:
    a, b = r.value(call.args[0]), r.value(call.args[1])
    if not isinstance(a, Coded) or not isinstance(b, Coded) or not (_is_stored(a) and _is_stored(b)):
        return None
    if int(a.data.ty.ndim) < 2 or int(b.data.ty.ndim) < 2 or (a.array is not None and b.array is not None):
        return None
    if not _varies_along(a, -2) or not _varies_along(b, -1):
        return None
    inner = shape_of(b.data)[-2]
    left, right = _Side(a, -1), _Side(b, -2)
    most = float(inner) * left.most * right.most
    if b.array is not None and b.array.ndim == 2 and right.rest is None:
        most = float(np.abs(right.stored).sum(axis=-2).max(initial=0)) * left.most
    dtype = _sums_type(most)
    if dtype is None or (left.wide or right.wide):
        return None
    made = r.emit(relax.op.matmul(left.data, right.data, out_dtype=dtype))
    made, shift = _without_zeros(r, made, left, right, inner, dtype)
    reach = most + float(inner) * (left.reach * right.most + right.reach * left.most)
    if reach > INT32 and dtype == "int32":
        return None
    factor = _aligned(a.scale, int(call.ty.ndim)) * _aligned(b.scale, int(call.ty.ndim))
    return Linear((Term(made, shift, factor, reach),), NOTHING)


class _Side:
    """One operand of a matrix product: its integers, and what has to be subtracted of each.

    Attributes:
        data: the integers that are multiplied.
        offset: the real value is `data - offset`, int64.
        most: the largest magnitude of `data`.
        reach: the same of `offset` where a computed sum is multiplied by it.
        rest: whether constant weights were moved to fit int8.
        wide: whether they do not fit.
    """

    def __init__(self, value: Coded, axis: int) -> None:
        self.axis, self.array = axis, value.array
        self.data, self.offset = value.data, value.zero
        self.most, self.wide, self.rest = float(magnitude(value.dtype)), False, None
        self.stored = np.zeros(())
        if value.array is not None:
            made = weights_of(value, (value.array.ndim + axis,))
            self.wide = made is None
            if made is not None:
                self.stored, self.rest, self.most = made.stored.astype(np.int64), made.rest, 128.0
                self.data = constant(made.stored)
                self.offset = np.zeros((), np.int64) if made.rest is None else -made.rest
                self.array = made.stored
        self.reach = float(np.max(np.abs(self.offset), initial=0))


def _without_zeros(
    r: Rewriter, made: Expr, left: _Side, right: _Side, inner: int, dtype: str
) -> tuple[Expr, Array]:
    """The product of integers as that of what they stand for; what is constant of it as a shift."""
    rank = int(made.ty.ndim)
    shift = _aligned(left.offset, rank) * _aligned(right.offset, rank) * inner
    for one, other in ((left, right), (right, left)):
        if not other.offset.any():
            continue
        if one.array is not None:
            sums = one.array.astype(np.int64).sum(axis=one.axis, keepdims=True)
            shift = shift - _aligned(sums, rank) * _aligned(other.offset, rank)
            continue
        wide = r.widened(one.data, dtype)
        sums = r.emit(relax.op.sum(wide, axis=[one.axis], keepdims=True))
        offset = constant(_aligned(other.offset, rank).astype(dtype))
        made = r.emit(relax.op.subtract(made, r.emit(relax.op.multiply(sums, offset))))
    return made, np.asarray(shift)


def _varies_along(value: Coded, axis: int) -> bool:
    """Whether scale and zero point are one, or one for each index of an axis."""
    return all(
        a.size == 1 or all(size == 1 for i, size in enumerate(a.shape) if i != a.ndim + axis)
        for a in (value.scale, value.zero)
    )


def _aligned(array: Array, rank: int) -> Array:
    """An array that broadcasts against tensors of a rank, with that rank."""
    if array.size == 1:
        return array.reshape(())
    return array.reshape((1,) * (rank - array.ndim) + array.shape)
