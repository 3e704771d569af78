"""The behaviour of each operator in a blocked layout: one rule per operator.

A rule gets the planner and the call (arguments are those of the old function) and returns the value in its new form,
or None when the operator needs plain tensors.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from tvm import relax
from tvm.ir import Call

from edgec.compiler.backends.cpu import compute
from edgec.compiler.backends.cpu.layouts.interleaving import interleaved
from edgec.compiler.backends.cpu.layouts.packing import (
    merge_groups,
    pack_conv,
    pack_dense,
    pack_depthwise,
)
from edgec.compiler.backends.cpu.layouts.planar_convolution import planar_convolution
from edgec.compiler.backends.cpu.layouts.registry import rule
from edgec.compiler.backends.cpu.layouts.stored_winograd import pack_winograd, stored_winograd
from edgec.compiler.backends.cpu.layouts.value import Plan, Value
from edgec.compiler.backends.cpu.specs import ConvSpec, DenseSpec, MatmulSpec, PoolSpec, ResizeSpec, Window
from edgec.compiler.backends.cpu.templates import normalisation, resize
from edgec.compiler.graph.operators import UNARY
from edgec.compiler.graph.rewrite import Expr, array_of, constant, dtype_of, op_name, shape_of
from edgec.compiler.operands.operands import FLOAT16, FLOAT32

FLOATS = ("float32", "float16")


def _value(blocked: Expr, channels: int) -> Value:
    return Value(None, blocked, channels)


def _rows(flat: Expr) -> Value:
    return Value(None, None, flat=flat)


def _pair(values: Sequence[object]) -> tuple[int, int]:
    first, second = (int(str(v)) for v in values)
    return first, second


def _window(call: Call, kernel: Sequence[object]) -> Window:
    """The sliding window of a convolution or pooling (rank 4)."""
    attrs, out = call.attrs, shape_of(call)
    pad = _pair(attrs.padding[:2])  # top and left; the rest follows from the size of the output
    return Window(_pair(kernel), _pair(attrs.strides), _pair(attrs.dilation), pad, (out[2], out[3]))


@rule("nn.conv2d")
def _conv2d(plan: Plan, call: Call) -> Value | None:
    attrs, weight = call.attrs, array_of(call.args[1])
    if weight is None or attrs.data_layout != "NCHW" or dtype_of(call) not in FLOATS:
        return None
    half = dtype_of(call) == "float16"
    batch, channels, height, width = shape_of(call.args[0])
    out = shape_of(call)
    groups = int(attrs.groups)
    window = _window(call, weight.shape[2:])
    lanes = plan.lanes
    if groups > 1 and groups == channels and weight.shape[0] == channels:
        spec = ConvSpec(
            batch, channels, (height, width), channels, window, lanes, lanes, groups, True, dtype_of(call)
        )
        data = plan.blocked(call.args[0])
        packed = constant(pack_depthwise(weight, lanes))
        return _value(plan.call(compute.depthwise(spec), "depthwise", data, packed), channels)
    if groups > 1:
        weight, groups = merge_groups(weight, groups, channels, lanes)
    in_block = 0 if channels < lanes and not plan.is_blocked(call.args[0]) and groups == 1 else lanes
    nhwc = plan.state(call.args[0]).nhwc if in_block == 0 and not half else None
    operands = FLOAT16 if half else plan.operands(weight.shape[1]) if in_block else FLOAT32
    if groups == 1 and operands is FLOAT32:
        made = planar_convolution(plan, call, weight, window)
        if made is not None:
            return made
    spec = ConvSpec(
        batch,
        channels,
        (height, width),
        out[1],
        window,
        lanes,
        channels if nhwc is not None else in_block,
        groups,
        dtype=operands.accumulator,
        operands=operands,
    )
    stored = stored_winograd(plan, spec)
    if stored is not None:
        transformed = constant(pack_winograd(weight, stored.m, lanes))
        data = plan.blocked(call.args[0])
        return _value(plan.call(compute.winograd(stored), "conv2d", data, transformed), out[1])
    packed = operands.pack(pack_conv(weight, lanes, spec.chunk))
    if nhwc is not None:  # a single block of all channels
        data = plan.emit(relax.op.reshape(nhwc, (batch, 1, height, width, channels)))
    else:
        data = plan.operand(call.args[0], operands) if in_block else plan.plain(call.args[0])
    made = plan.call(compute.conv2d(spec), "conv2d", data, constant(packed))
    return _value(plan.emit(relax.op.astype(made, "float16")) if half else made, out[1])


@rule("nn.max_pool2d", "nn.avg_pool2d")
def _pool2d(plan: Plan, call: Call) -> Value | None:
    attrs = call.attrs
    average = op_name(call) == "nn.avg_pool2d"
    kinds = ("float32",) if average else (*FLOATS, "int8", "uint8", "int16")
    if attrs.layout != "NCHW" or dtype_of(call) not in kinds:
        return None
    if average and any(int(d) != 1 for d in attrs.dilation):
        return None
    batch, channels, height, width = shape_of(call.args[0])
    window = _window(call, attrs.pool_size)
    kind = "max"
    if average:
        padded = any(int(p) for p in attrs.padding) or attrs.ceil_mode
        kind = "avg_valid" if padded and not attrs.count_include_pad else "avg"
    data = plan.blocked(call.args[0])
    spec = PoolSpec(kind, batch, shape_of(data)[1], (height, width), window, plan.lanes, dtype_of(call))
    return _value(plan.call(compute.pool(spec), "pool", data), channels)


@rule("mean", "nn.adaptive_avg_pool2d", "max", "sum")
def _global_pool(plan: Plan, call: Call) -> Value | None:
    name = op_name(call)
    source = call.args[0]
    kinds = ("float32", "int32") if name in ("max", "sum") else ("float32",)
    if not plan.is_blocked(source) or dtype_of(call) not in kinds:
        return None
    batch, channels, height, width = shape_of(source)
    if name == "nn.adaptive_avg_pool2d":
        if shape_of(call)[2:] != (1, 1):
            return None
    elif call.attrs.axis is None or sorted(int(a) % 4 for a in call.attrs.axis) != [2, 3]:
        return None
    data = plan.blocked(source)
    window = Window(kernel=(height, width), out=(1, 1))
    kind = {"max": "max", "sum": "sum"}.get(name, "avg")
    spec = PoolSpec(kind, batch, shape_of(data)[1], (height, width), window, plan.lanes, dtype_of(call))
    made = _value(plan.call(compute.pool(spec), "global_pool", data), channels)
    if name != "nn.adaptive_avg_pool2d" and not call.attrs.keepdims:
        made.plain = plan.emit(relax.op.reshape(plan.unpack(made, nhwc=False), (batch, channels)))
        made.blocked = None
    return made


@rule(*UNARY)
def _unary(plan: Plan, call: Call) -> Value | None:
    if plan.is_flat(call.args[0]):
        args = [plan.flat(call.args[0]), *call.args[1:]]
        return _rows(plan.emit(Call(call.op, args, call.attrs, call.ty_args)))
    if not plan.is_blocked(call.args[0]):
        return None
    args = [plan.blocked(call.args[0]), *call.args[1:]]
    channels = plan.state(call.args[0]).channels
    return _value(plan.emit(Call(call.op, args, call.attrs, call.ty_args)), channels)


@rule("nn.prelu")
def _prelu(plan: Plan, call: Call) -> Value | None:
    slope = array_of(call.args[1])
    if not plan.is_blocked(call.args[0]) or slope is None or int(call.attrs.axis) != 1:
        return None
    data = plan.blocked(call.args[0])
    channels = plan.state(call.args[0]).channels
    flat = np.broadcast_to(slope.reshape(-1), (channels,)) if slope.size == 1 else slope
    scale = plan.block_constant(flat.reshape(1, channels, 1, 1))
    kernel = compute.prelu(shape_of(data), shape_of(scale), dtype_of(data))
    return _value(plan.call(kernel, "prelu", data, scale), channels)


BROADCASTING = (
    "add", "subtract", "multiply", "divide", "maximum", "minimum", "power", "where", "equal", "not_equal", "greater",
    "greater_equal", "less", "less_equal", "right_shift", "left_shift", "bitwise_and", "bitwise_or", "bitwise_xor",
)  # fmt: skip


@rule(*BROADCASTING)
def _broadcasting(plan: Plan, call: Call) -> Value | None:
    if any(plan.is_flat(arg) for arg in call.args):
        return _broadcasting_rows(plan, call)
    if not any(plan.is_blocked(arg) for arg in call.args):
        return None
    shape = shape_of(call)
    if len(shape) != 4:
        return None
    args = []
    for arg in call.args:
        array = array_of(arg)
        if array is not None:
            if array.ndim > 4:
                return None
            args.append(plan.block_constant(array))
            continue
        own = shape_of(arg)
        if len(own) == 4 and own[1] == shape[1]:
            args.append(plan.blocked(arg))
        elif len(own) == 4 and own[1] == 1:
            args.append(plan.emit(relax.op.reshape(plan.plain(arg), (own[0], 1, own[2], own[3], 1))))
        elif int(np.prod(own)) == 1:
            args.append(plan.emit(relax.op.reshape(plan.plain(arg), ())))
        else:
            return None
    return _value(plan.emit(Call(call.op, args, call.attrs, call.ty_args)), shape[1])


def _broadcasting_rows(plan: Plan, call: Call) -> Value | None:
    """On rows, so that what follows a product can be its epilogue: other operands are as large, a row, or a number."""
    shape, args = shape_of(call), []
    for arg in call.args:
        own = shape_of(arg)
        count = int(np.prod(own))
        if own == shape:
            args.append(plan.flat(arg))
        elif count == 1 or (count == shape[-1] and own[-1] == count):
            args.append(_reshaped(plan, arg, () if count == 1 else (1, count)))
        else:
            return None
    return _rows(plan.emit(Call(call.op, args, call.attrs, call.ty_args)))


def _reshaped(plan: Plan, expr: Expr, shape: tuple[int, ...]) -> Expr:
    array = array_of(expr)
    return (
        plan.emit(relax.op.reshape(plan.plain(expr), shape))
        if array is None
        else constant(array.reshape(shape))
    )


@rule("image.resize2d")
def _resize2d(plan: Plan, call: Call) -> Value | None:
    if not plan.is_blocked(call.args[0]) or call.attrs.layout != "NCHW":
        return None
    attrs = call.attrs
    mode = str(attrs.coordinate_transformation_mode)
    if attrs.method == "linear" and mode in resize.COORDINATES and dtype_of(call) == "float32":
        return _interpolated(plan, call, mode)
    made = relax.op.image.resize2d(
        plan.blocked(call.args[0]),
        call.args[1],
        roi=list(attrs.roi),
        layout=f"NCHW{plan.lanes}c",
        method=attrs.method,
        coordinate_transformation_mode=attrs.coordinate_transformation_mode,
        rounding_method=attrs.rounding_method,
        cubic_alpha=attrs.cubic_alpha,
        cubic_exclude=attrs.cubic_exclude,
        extrapolation_value=attrs.extrapolation_value,
    )
    return _value(plan.emit(made), shape_of(call)[1])


def _interpolated(plan: Plan, call: Call, mode: str) -> Value:
    data, (height, width) = plan.blocked(call.args[0]), shape_of(call)[2:]
    batch, blocks, *size, lanes = shape_of(data)
    spec = ResizeSpec(batch, blocks, (size[0], size[1]), (height, width), lanes)
    tables = [
        constant(table) for axis in (0, 1) for table in resize.tables(spec.size[axis], spec.out[axis], mode)
    ]
    return _value(plan.call(resize.resize(spec), "resize2d", data, *tables), shape_of(call)[1])


@rule("permute_dims")
def _permute(plan: Plan, call: Call) -> Value | None:
    axes = call.attrs.axes
    order = None if axes is None else tuple(int(a) for a in axes)
    if order == (0, 3, 1, 2) and not plan.is_blocked(call.args[0]):
        source = plan.plain(call.args[0])
        return Value(plan.emit(relax.op.permute_dims(source, list(order))), None, nhwc=source)
    if order == (0, 2, 3, 1) and plan.is_blocked(call.args[0]):
        value = plan.state(call.args[0])
        if value.plain is None:
            return Value(plan.unpack(value, nhwc=True), None)
    return None


@rule("reshape", "nn.batch_flatten", "squeeze")
def _flatten(plan: Plan, call: Call) -> Value | None:
    """Away from `[N, C, 1, 1]` the blocked form is the plain one when its blocks are full; rows stay rows."""
    shape, made = shape_of(call.args[0]), shape_of(call)
    pixels = interleaved(plan, call) if len(shape) == 6 and len(made) == 4 else None
    if pixels is not None:
        return pixels
    if not plan.is_blocked(call.args[0]):
        keeps_rows = len(made) > 1 and len(shape) > 1 and shape[-1] == made[-1]
        if not keeps_rows or not (plan.is_flat(call.args[0]) or (len(shape) == 2 and len(made) > 2)):
            return None
        rows = plan.flat(call.args[0])
        return _rows(rows) if len(made) > 2 else Value(rows, None)
    value = plan.state(call.args[0])
    if shape[2:] != (1, 1) or value.channels % plan.lanes:
        return None
    return Value(plan.emit(relax.op.reshape(value.blocked, made)), None)


@rule("matmul")
def _matmul(plan: Plan, call: Call) -> Value | None:
    weight = array_of(call.args[1])
    half = dtype_of(call) == "float16"
    if dtype_of(call) not in FLOATS:
        return None
    if weight is None or weight.ndim != 2:
        return _batched_matmul(plan, call)
    shape = shape_of(call)
    rows = int(np.prod(shape[:-1])) if len(shape) > 1 else 1
    inner, cols = weight.shape
    if len(shape) > 1:
        flat = plan.flat(call.args[0])
    else:
        flat = plan.emit(relax.op.reshape(plan.plain(call.args[0]), (rows, inner)))
    lanes = plan.row_lanes
    operands = FLOAT16 if half else plan.operands(inner)
    packed = operands.pack(pack_dense(weight, lanes))
    if operands.data != dtype_of(flat):
        flat = plan.emit(relax.op.astype(flat, operands.data))
    spec = DenseSpec(rows, inner, cols, lanes, operands.accumulator, operands)
    out = plan.call(compute.dense(spec), "dense", flat, constant(packed))
    out = plan.emit(relax.op.astype(out, "float16")) if half else out
    if len(shape) > 2:
        return _rows(out)
    return Value(out if shape_of(out) == shape else plan.emit(relax.op.reshape(out, shape)), None)


def _batched_matmul(plan: Plan, call: Call) -> Value | None:
    """A product of two activations (or stacked constants) of the same leading dimensions."""
    left, right = (shape_of(arg) for arg in call.args)
    if len(left) < 3 or left[:-2] != right[:-2] or dtype_of(call.args[0]) != "float32":
        return None
    spec = MatmulSpec(left[:-2], left[-2], left[-1], right[-1], plan.row_lanes)
    args = [plan.plain(arg) for arg in call.args]
    return Value(plan.call(compute.matmul(spec), "matmul", *args), None)


@rule("nn.softmax")
def _softmax(plan: Plan, call: Call) -> Value | None:
    shape = shape_of(call)
    if dtype_of(call) != "float32" or len(shape) < 2:
        return None
    axis = int(call.attrs.axis) % len(shape)
    last = axis == len(shape) - 1
    kernel = (
        normalisation.softmax(shape, plan.row_lanes)
        if last
        else normalisation.softmax_across(shape, axis, plan.row_lanes)
    )
    return Value(plan.call(kernel, "softmax", plan.plain(call.args[0])), None)


def _normalises_rows(call: Call) -> bool:
    shape = shape_of(call)
    axes = [int(axis) % len(shape) for axis in call.attrs.axes]
    return dtype_of(call) == "float32" and axes == [len(shape) - 1] and len(shape) >= 2


@rule("nn.layer_norm")
def _layer_norm(plan: Plan, call: Call) -> Value | None:
    shape, attrs = shape_of(call), call.attrs
    if not _normalises_rows(call):
        return None
    if not (attrs.center and attrs.scale) or any(shape_of(arg) != shape[-1:] for arg in call.args[1:]):
        return None
    kernel = normalisation.layer_norm(shape, float(attrs.epsilon), plan.row_lanes)
    return Value(plan.call(kernel, "layer_norm", *(plan.plain(arg) for arg in call.args)), None)


@rule("nn.rms_norm")
def _rms_norm(plan: Plan, call: Call) -> Value | None:
    shape, attrs = shape_of(call), call.attrs
    if not _normalises_rows(call):
        return None
    kernel = normalisation.rms_norm(shape, float(attrs.epsilon), plan.row_lanes)
    return Value(plan.call(kernel, "rms_norm", *(plan.plain(arg) for arg in call.args)), None)
