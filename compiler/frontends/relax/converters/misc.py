"""Operators that TVM's importer lacks, or takes in part, and that need few lines each."""

from __future__ import annotations

import itertools
import math

import numpy as np
from tvm import relax

from edgec.compiler.frontends.relax.builder import Expr, constant
from edgec.compiler.frontends.relax.converters.registry import (
    Decline,
    Node,
    Refusal,
    axis_of,
    converts,
    dtype_of,
    is_constant,
    reshaped,
    scalar,
    shape_of,
    value_of,
)
from edgec.compiler.frontends.relax.converters.slicing import sliced
from edgec.compiler.kernels.cumulative import running


@converts("CumSum", "CumProd")
def _cumulative(node: Node) -> Expr:
    x, shape, given = node.input(0), node.shape(0), node.array(1)
    axis = axis_of(int(given.reshape(-1)[0]) if given is not None else 0, len(shape))
    outer, inner = math.prod(shape[:axis]), math.prod(shape[axis + 1 :])
    symbol = node.builder.get_unique_name(node.op_type.lower())
    kernel = running(
        symbol,
        (outer, shape[axis], inner),
        dtype_of(x),
        product=node.op_type == "CumProd",
        backwards=bool(node.attrs.get("reverse", 0)),
        exclusive=bool(node.attrs.get("exclusive", 0)),
    )
    flat = node.emit(reshaped(x, [outer, shape[axis], inner]))
    out = relax.TensorType((outer, shape[axis], inner), dtype_of(x))
    called = relax.call_tir(node.builder.add_func(kernel, symbol), [flat], out)
    return reshaped(node.emit(called), shape)


@converts("LpNormalization")
def _lp_normalization(node: Node) -> Expr:
    x = node.input(0)
    axis = axis_of(int(node.attrs.get("axis", -1)), len(node.shape(0)))
    if int(node.attrs.get("p", 2)) == 1:
        norm = relax.op.sum(relax.op.abs(x), axis=axis, keepdims=True)
    else:
        norm = relax.op.sqrt(relax.op.sum(relax.op.multiply(x, x), axis=axis, keepdims=True))
    norm = node.emit(norm)
    zero = relax.op.equal(norm, scalar(0, x))
    return relax.op.divide(x, relax.op.where(zero, scalar(1, x), norm))


@converts("ReverseSequence")
def _reverse_sequence(node: Node) -> Expr:
    batch, time = int(node.attrs.get("batch_axis", 1)), int(node.attrs.get("time_axis", 0))
    return relax.op.reverse_sequence(node.input(0), node.input(1), seq_axis=time, batch_axis=batch)


@converts("Swish")
def _swish(node: Node) -> Expr:
    x, alpha = node.input(0), float(node.attrs.get("alpha", 1.0))
    return relax.op.multiply(x, relax.op.sigmoid(relax.op.multiply(x, scalar(alpha, x))))


@converts("Pow")
def _pow(node: Node) -> Expr:
    x, y = node.input(0), node.input(1)
    kind = dtype_of(x)
    if is_constant(y):
        power = value_of(y)
        if power.size == 1 and float(power.reshape(-1)[0]) == 2.0 and len(power.shape) <= len(shape_of(x)):
            return relax.op.multiply(x, x)
    wide = "float64" if kind.startswith(("int", "uint")) or "64" in dtype_of(y) else kind
    a = x if kind == wide else node.emit(relax.op.astype(x, wide))
    b = y if dtype_of(y) == wide else node.emit(relax.op.astype(y, wide))
    result = node.emit(relax.op.power(a, b))
    return result if wide == kind else relax.op.astype(result, kind)


@converts("Elu")
def _elu(node: Node) -> Expr:
    x, alpha = node.input(0), float(node.attrs.get("alpha", 1.0))
    zero, one = scalar(0, x), scalar(1, x)
    below = relax.op.subtract(relax.op.exp(relax.op.minimum(x, zero)), one)
    return relax.op.where(relax.op.greater(x, zero), x, relax.op.multiply(below, scalar(alpha, x)))


@converts("CenterCropPad")
def _center_crop_pad(node: Node) -> Expr:
    x, shape, given = node.input(0), node.shape(0), node.array(1)
    if given is None:
        raise Refusal("its shape is missing")
    axes = [axis_of(int(a), len(shape)) for a in node.attrs.get("axes") or range(len(shape))]
    picks, widths = {}, [0] * (2 * len(shape))
    for axis, size in zip(axes, (int(s) for s in given.reshape(-1)), strict=True):
        if size < shape[axis]:
            start = (shape[axis] - size) // 2
            picks[axis] = slice(start, start + size)
        else:
            before = (size - shape[axis]) // 2
            widths[2 * axis], widths[2 * axis + 1] = before, size - shape[axis] - before
    y = node.emit(sliced(node, x, picks))
    return relax.op.nn.pad(y, widths) if any(widths) else y


@converts("Col2Im")
def _col2im(node: Node) -> Expr:
    image, block = node.array(1), node.array(2)
    if image is None or block is None:
        raise Refusal("its image or block shape is missing")
    sizes, kernel = [int(s) for s in image], [int(k) for k in block]
    n = len(sizes)
    dilations = [int(d) for d in node.attrs.get("dilations") or [1] * n]
    strides = [int(s) for s in node.attrs.get("strides") or [1] * n]
    pads = [int(p) for p in node.attrs.get("pads") or [0] * (2 * n)]
    batch, rows, _ = node.shape(0)
    taps = math.prod(kernel)
    channels = rows // taps
    spread = [
        (size + pads[i] + pads[i + n] - dilations[i] * (kernel[i] - 1) - 1) // strides[i] + 1
        for i, size in enumerate(sizes)
    ]
    columns = node.emit(reshaped(node.input(0), [batch, channels, taps, *spread]))
    full = [size + pads[i] + pads[i + n] for i, size in enumerate(sizes)]
    total: Expr | None = None
    for number, tap in enumerate(itertools.product(*[range(k) for k in kernel])):
        part = node.emit(sliced(node, columns, {2: slice(number, number + 1)}))
        part = node.emit(reshaped(part, [batch, channels, *spread]))
        placed = _placed(node, part, [t * d for t, d in zip(tap, dilations, strict=True)], strides, full)
        total = placed if total is None else node.emit(relax.op.add(total, placed))
    picks = {i + 2: slice(pads[i], pads[i] + size) for i, size in enumerate(sizes)}
    return sliced(node, total, picks)


def _placed(node: Node, part: Expr, first: list[int], strides: list[int], full: list[int]) -> Expr:
    """A tensor ``[batch, channels, *spread]`` put into zeros of the sizes ``full``, ``strides`` apart."""
    for axis, (begin, stride, size) in enumerate(zip(first, strides, full, strict=True), start=2):
        shape = list(shape_of(part))
        if stride > 1:
            wide = [*shape[: axis + 1], 1, *shape[axis + 1 :]]
            widths = [0] * (2 * len(wide))
            widths[2 * (axis + 1) + 1] = stride - 1
            part = node.emit(relax.op.nn.pad(node.emit(reshaped(part, wide)), widths))
            shape[axis] *= stride
            part = node.emit(reshaped(part, shape))
            keep = shape[axis] - (stride - 1)
            part = node.emit(sliced(node, part, {axis: slice(0, keep)}))
            shape[axis] = keep
        widths = [0] * (2 * len(shape))
        widths[2 * axis], widths[2 * axis + 1] = begin, size - begin - shape[axis]
        if any(widths):
            part = node.emit(relax.op.nn.pad(part, widths))
    return part


@converts("Det")
def _det(node: Node) -> Expr:
    shape = node.shape(0)
    size = shape[-1]
    if size not in (1, 2, 3):
        raise Refusal(f"determinants of {size}×{size} matrices are not compiled")

    def entry(row: int, column: int) -> Expr:
        rank = len(shape)
        picks = {rank - 2: slice(row, row + 1), rank - 1: slice(column, column + 1)}
        part = node.emit(sliced(node, node.input(0), picks))
        return node.emit(reshaped(part, shape[:-2]))

    def minor(rows: list[int], columns: list[int]) -> Expr:
        if len(rows) == 1:
            return entry(rows[0], columns[0])
        total: Expr | None = None
        for position, column in enumerate(columns):
            rest = minor(rows[1:], [c for c in columns if c != column])
            term = node.emit(relax.op.multiply(entry(rows[0], column), rest))
            if total is None:
                total = term
            else:
                total = node.emit((relax.op.subtract if position % 2 else relax.op.add)(total, term))
        return total

    return minor(list(range(size)), list(range(size)))


@converts("InstanceNormalization")
def _instance_normalization(node: Node) -> Expr:
    """Mean and variance axis by axis, around the mean: one sum over a whole picture would lose digits.

    On 800×800 pixels a single fp32 sum of squares was seen to be off by 3e-3.
    """
    x, shape = node.input(0), node.shape(0)
    channels = [1, shape[1]] + [1] * (len(shape) - 2)
    centred = node.emit(relax.op.subtract(x, _spatial_mean(node, x)))
    variance = _spatial_mean(node, node.emit(relax.op.multiply(centred, centred)))
    epsilon = scalar(float(node.attrs.get("epsilon", 1e-5)), x)
    spread = node.emit(relax.op.sqrt(relax.op.add(variance, epsilon)))
    scaled = relax.op.multiply(relax.op.divide(centred, spread), reshaped(node.input(1), channels))
    return relax.op.add(scaled, reshaped(node.input(2), channels))


def _spatial_mean(node: Node, x: Expr) -> Expr:
    for axis in range(len(shape_of(x)) - 1, 1, -1):
        x = node.emit(relax.op.mean(x, axis=axis, keepdims=True))
    return x


@converts("NonMaxSuppression")
def _non_max_suppression(node: Node) -> Expr:
    raise Refusal("how many boxes it keeps depends on the data")


@converts("IsInf")
def _is_inf(node: Node) -> Expr:
    x = node.input(0)
    infinity = relax.op.isinf(x)
    if not node.attrs.get("detect_negative", 1):
        return relax.op.logical_and(infinity, relax.op.greater(x, scalar(0, x)))
    if not node.attrs.get("detect_positive", 1):
        return relax.op.logical_and(infinity, relax.op.less(x, scalar(0, x)))
    return infinity


@converts("LayerNormalization", "RMSNormalization")
def _layer_normalization(node: Node) -> list[Expr]:
    x, shape = node.input(0), node.shape(0)
    first = axis_of(int(node.attrs.get("axis", -1)), len(shape))
    axes, epsilon = list(range(first, len(shape))), float(node.attrs.get("epsilon", 1e-5))
    wanted = [name for name in node.outputs if name]
    if node.op_type == "LayerNormalization" and len(wanted) == 1 and dtype_of(x) == "float32":
        gain = _as_normalised(node, 1, shape[first:], 1.0)
        shift = _as_normalised(node, 2, shape[first:], 0.0)
        return [relax.op.nn.layer_norm(x, gain, shift, axes=axes, epsilon=epsilon)]
    wide = x if dtype_of(x) == "float32" else node.emit(relax.op.astype(x, "float32"))
    mean = node.emit(relax.op.mean(wide, axis=axes, keepdims=True))
    if node.op_type == "LayerNormalization":
        wide = node.emit(relax.op.subtract(wide, mean))
    power = node.emit(relax.op.mean(relax.op.multiply(wide, wide), axis=axes, keepdims=True))
    root = relax.op.sqrt(relax.op.add(power, constant(epsilon, "float32")))
    inverse = node.emit(relax.op.divide(constant(1.0, "float32"), root))
    y = relax.op.astype(relax.op.multiply(wide, inverse), dtype_of(x))
    if node.has(1):
        y = relax.op.multiply(y, node.input(1))
    if node.has(2):
        y = relax.op.add(y, node.input(2))
    return [y, mean, inverse]


def _as_normalised(node: Node, position: int, shape: tuple[int, ...], default: float) -> Expr:
    if not node.has(position):
        return constant(np.full(shape, default, "float32"))
    value = node.input(position)
    return value if shape_of(value) == shape else node.emit(relax.op.broadcast_to(value, shape))


@converts("PRelu")
def _prelu(node: Node) -> Expr:
    """With as many slopes as channels, however many axes follow them."""
    x, slope, shape, own = node.input(0), node.input(1), node.shape(0), node.shape(1)
    if len(shape) > 2:
        if len(own) > 1 or own in ((1,), shape[-1:]) or own != shape[1:2]:
            raise Decline
        slope = node.emit(relax.op.reshape(slope, (*own, *[1] * (len(shape) - 2))))
    elif len(own) == 1 and len(shape) == 2 and own[0] not in (1, shape[1]):
        raise Refusal(f"{own[0]} slopes do not fit the shape {list(shape)}")
    below = node.emit(relax.op.multiply(x, slope))
    return relax.op.where(relax.op.greater_equal(x, scalar(0, x)), x, below)


@converts("SpaceToDepth")
def _space_to_depth(node: Node) -> Expr:
    """With the columns and rows of a block behind the channel (``CRD``); TVM knows the other order only."""
    if str(node.attrs.get("mode", "DCR")) != "CRD":
        raise Decline
    (batch, channels, height, width), size = node.shape(0), int(node.attrs["blocksize"])
    rows, columns = height // size, width // size
    blocks = node.emit(relax.op.reshape(node.input(0), (batch, channels, rows, size, columns, size)))
    behind = node.emit(relax.op.permute_dims(blocks, [0, 1, 3, 5, 2, 4]))
    return relax.op.reshape(behind, (batch, channels * size * size, rows, columns))
