"""Sums and averages: of integers in int32, divided by their number in the requantisation that follows."""

from __future__ import annotations

import math

import numpy as np
from tvm import relax
from tvm.ir import Call

from edgec.compiler.graph.integer.requantise import INT32
from edgec.compiler.graph.integer.rewriter import Rewriter, rule
from edgec.compiler.graph.integer.values import STORED, Coded, Computed, Linear, Term, Value, magnitude
from edgec.compiler.graph.rewrite import Array, Expr, shape_of
from edgec.compiler.kernels.windows import window_sums

NOTHING = np.zeros(())


def _codes(r: Rewriter, expr: Expr) -> Coded | None:
    value = r.value(expr)
    stored = isinstance(value, Coded) and value.dtype in STORED and value.per_tensor and value.array is None
    return value if isinstance(value, Coded) and stored else None


@rule("sum", "mean")
def _sum(r: Rewriter, call: Call) -> Value | None:
    value = _codes(r, call.args[0])
    if value is None:
        return None
    shape, rank = shape_of(call.args[0]), len(shape_of(call.args[0]))
    axes = [int(a) % rank for a in call.attrs.axis] if call.attrs.axis is not None else list(range(rank))
    count = math.prod(shape[axis] for axis in axes)
    most = float(magnitude(value.dtype)) * count
    if most > INT32:
        return None
    wide = r.widened(value.data, "int32")
    sums = r.emit(relax.op.sum(wide, axis=axes, keepdims=bool(call.attrs.keepdims)))
    divisor = count if str(call.op.name).endswith("mean") else 1
    scale = value.scale.reshape(()) / divisor
    return Linear((Term(sums, -value.zero.reshape(()) * count, scale, most, divisor),), NOTHING)


@rule("nn.avg_pool1d", "nn.avg_pool2d", "nn.avg_pool3d")
def _average(r: Rewriter, call: Call) -> Value | None:
    value, attrs = _codes(r, call.args[0]), call.attrs
    if value is None or not str(attrs.layout).startswith("NC"):
        return None
    shape, out = shape_of(call.args[0]), shape_of(call)
    spatial = len(out) - 2
    kernel, strides, dilations, pads = (
        [int(v) for v in values] for values in (attrs.pool_size, attrs.strides, attrs.dilation, attrs.padding)
    )
    zero = int(value.zero.reshape(()))
    widths, counts = [0, 0, 0, 0], np.ones(out[2:])
    for axis in range(spatial):
        begin, end = pads[axis], pads[axis + spatial]
        size = shape[axis + 2]
        last = (out[axis + 2] - 1) * strides[axis] + (kernel[axis] - 1) * dilations[axis] + 1
        widths += [begin, max(last - size - begin, 0)]
        counted = (-begin, size + end) if attrs.count_include_pad else (0, size)
        inside = _inside(out[axis + 2], strides[axis], kernel[axis], dilations[axis], begin, counted)
        counts = counts * inside.reshape([-1 if i == axis else 1 for i in range(spatial)])
    if counts.min() < 1:
        return None
    data = value.data
    if any(widths):
        data = r.emit(relax.op.nn.pad(data, widths, pad_value=zero))
    wide = r.widened(data, "int32")
    if math.prod(out[2:]) == 1 and kernel == list(shape_of(data)[2:]) and max(dilations) == 1:
        sums = r.emit(relax.op.sum(wide, axis=list(range(2, len(shape))), keepdims=True))
    else:
        sums = r.builder.emit_te(
            window_sums, wide, out[2:], kernel, strides, dilations, primfunc_name_hint="window_sums"
        )
    taps = math.prod(kernel)
    whole = counts.reshape(1, 1, *counts.shape)
    count = int(whole.reshape(-1)[0]) if np.ptp(whole) == 0 else 1
    factor = np.asarray(value.scale.reshape(()) / (whole if count == 1 else count))
    shift, most = np.asarray(-zero * taps), float(magnitude(value.dtype)) * taps
    return Linear((Term(sums, shift, factor, most, count),), NOTHING)


def _inside(out: int, stride: int, kernel: int, dilation: int, begin: int, counted: tuple[int, int]) -> Array:
    """How many elements of each window along an axis are counted."""
    first = np.arange(out)[:, None] * stride - begin
    at = first + np.arange(kernel) * dilation
    return np.asarray(((at >= counted[0]) & (at < counted[1])).sum(1))


@rule("nn.adaptive_avg_pool2d", "nn.adaptive_avg_pool1d")
def _global_average(r: Rewriter, call: Call) -> Value | None:
    value, shape, out = _codes(r, call.args[0]), shape_of(call.args[0]), shape_of(call)
    count = math.prod(shape[2:])
    most = 0.0 if value is None else float(magnitude(value.dtype)) * count
    if (
        value is None
        or math.prod(out[2:]) != 1
        or most > INT32
        or not str(call.attrs.layout).startswith("NC")
    ):
        return None
    wide = r.widened(value.data, "int32")
    sums = r.emit(relax.op.sum(wide, axis=list(range(2, len(shape))), keepdims=True))
    scale = value.scale.reshape(()) / count
    return Linear((Term(sums, -value.zero.reshape(()) * count, scale, most, count),), NOTHING)


@rule("nn.softmax")
def _softmax(r: Rewriter, call: Call) -> Value | None:
    """Exponentials from a table of 2**30ths, their sum in int64: a quotient of two integers."""
    value = _codes(r, call.args[0])
    if value is None or value.dtype not in ("int8", "uint8"):
        return None
    axis = int(call.attrs.axis)
    wide = r.widened(value.data, "int32")
    most = r.emit(relax.op.max(wide, axis=axis, keepdims=True))
    below = r.emit(relax.op.subtract(most, wide))
    table = np.rint(np.exp(-np.arange(256) * float(value.scale.reshape(()))) * 2.0**30).astype(np.int32)
    powers = r.emit(relax.op.take(relax.const(table), below, axis=0))
    total = r.emit(relax.op.sum(r.widened(powers, "int64"), axis=axis, keepdims=True))
    parts = [r.emit(relax.op.astype(side, "float32")) for side in (powers, total)]
    return Computed(r.emit(relax.op.divide(parts[0], parts[1])))
