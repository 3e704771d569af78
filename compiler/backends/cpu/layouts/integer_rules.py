"""Rules for the layers of quantised models: sums of 8-bit products, and what surrounds them.

A convolution arrives with int8 weights and sums in int32 (`out_dtype`), behind an explicit pad by the zero point. The
pad becomes part of the convolution: the kernel leaves out the taps that read it, and a small table adds what they
would have summed to.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from tvm import relax
from tvm.ir import Call

from edgec.compiler.backends.cpu import compute, integer_compute
from edgec.compiler.backends.cpu.layouts.byte_pairs import byte_pairs, stays_in_16_bits
from edgec.compiler.backends.cpu.layouts.packing import (
    block_channels,
    merge_groups,
    pack_conv,
    pack_dense,
    pack_depthwise,
)
from edgec.compiler.backends.cpu.layouts.stored_winograd import integer_winograd
from edgec.compiler.backends.cpu.layouts.value import Plan, Value
from edgec.compiler.backends.cpu.layouts.wide_activations import holds_bytes, wide_operands
from edgec.compiler.backends.cpu.specs import ConvSpec, DenseSpec, MatmulSpec, Window
from edgec.compiler.backends.cpu.templates import integer_winograd as templates
from edgec.compiler.backends.cpu.templates.conv2d_tiles import has_squares, multiplies_squares
from edgec.compiler.graph.rewrite import Array, Expr, array_of, constant, dtype_of, op_name, shape_of
from edgec.compiler.operands.operands import INT8, INT8_SQUARES, INT16_INT8, UINT8_INT8, Operands

NARROW = ("int8", "uint8")
WIDE = "int16"
MANTISSA = 1 << 24  # float32 holds every whole number up to it


def of(plan: Plan, call: Call) -> Value | None:
    """The value of a call whose operands are 8-bit integers; None for any other, and where it needs plain tensors."""
    name = op_name(call)
    if name == "astype":
        return _cast(plan, call)
    if name == "nn.conv2d":
        return _conv2d(plan, call)
    return _matmul(plan, call) if name == "matmul" else None


def _operands(data: Expr) -> Operands:
    return {"int8": INT8, "uint8": UINT8_INT8, WIDE: INT16_INT8}[dtype_of(data)]


def _multiplies(plan: Plan, call: Call) -> bool:
    """Whether a convolution is one of integers for which there are kernels."""
    if dtype_of(call.args[0]) == WIDE:
        wide = wide_operands(plan.target) is not None
        return wide and dtype_of(call) == "int32" and dtype_of(call.args[1]) == "int8"
    return _is_product(call)


def _is_product(call: Call) -> bool:
    data, weight = call.args[:2]
    return dtype_of(call) == "int32" and dtype_of(data) in NARROW and dtype_of(weight) == "int8"


def _pair(values: object) -> tuple[int, int]:
    first, second = (int(v) for v in values)  # type: ignore[attr-defined]  # an array of TVM's
    return first, second


def _cast(plan: Plan, call: Call) -> Value | None:
    """A conversion of elements, in the form in which they are available."""
    source = call.args[0]
    if plan.is_flat(source):
        return Value(None, None, flat=plan.emit(relax.op.astype(plan.flat(source), dtype_of(call))))
    if not plan.is_blocked(source):
        return None
    made = plan.emit(relax.op.astype(plan.blocked(source), dtype_of(call)))
    return Value(None, made, plan.state(source).channels)


def _unpadded(plan: Plan, call: Call) -> tuple[Expr, tuple[int, int], int]:
    """What a convolution reads, its padding at the top and at the left, and the value of padded elements."""
    source, attrs = call.args[0], call.attrs
    own = tuple(int(p) for p in attrs.padding)
    pad = plan.definition(source)
    if pad is None or op_name(pad) != "nn.pad" or any(own) or str(pad.attrs.pad_mode) != "constant":
        return source, own[:2], 0  # type: ignore[return-value]
    widths = [int(p) for p in pad.attrs.pad_width]
    if len(widths) != 8 or any(widths[:4]) or any(w < 0 for w in widths):
        return source, own[:2], 0  # type: ignore[return-value]
    return pad.args[0], (widths[4], widths[6]), round(float(pad.attrs.pad_value))


def _conv2d(plan: Plan, call: Call) -> Value | None:
    attrs, weight = call.attrs, array_of(call.args[1])
    if weight is None or attrs.data_layout != "NCHW" or not _multiplies(plan, call):
        return None
    source, pad, value = _unpadded(plan, call)
    batch, channels, height, width = shape_of(source)
    out, groups, lanes = shape_of(call), int(attrs.groups), plan.lanes
    window = Window(
        _pair(weight.shape[2:]), _pair(attrs.strides), _pair(attrs.dilation), pad, (out[2], out[3])
    )
    border = integer_compute.border_sums(weight, window, (height, width), value)
    operands = plan.native(_operands(source))
    if groups > 1 and groups == channels == weight.shape[0]:
        spec = ConvSpec(
            batch, channels, (height, width), channels, window, lanes, lanes, groups, True, "int32", operands
        )
        packed = constant(pack_depthwise(weight, lanes))
        sums = plan.call(integer_compute.depthwise(spec), "depthwise", plan.blocked(source), packed)
        return _with_border(plan, spec, sums, border)
    if groups > 1:
        weight, groups = merge_groups(weight, groups, channels, lanes)
    if groups == 1 and not plan.is_blocked(source) and _few_channels(channels, window.kernel[1], operands):
        return _of_taps(plan, source, weight, window, operands, border)
    spec, weight, data = _dense_conv(plan, source, weight, window, groups, operands)
    stored = integer_winograd(plan, spec, weight, _values(plan, source))
    if stored is not None:
        transformed = constant(templates.pack(weight, stored))
        sums = plan.call(compute.winograd(stored), "conv2d", data, transformed)
        sums = plan.call(integer_compute.quotient(stored), "quotient", sums)
        return _with_border(plan, spec, sums, border)
    if multiplies_squares(spec, plan.target):
        spec = replace(spec, operands=INT8_SQUARES)
    packed = constant(spec.operands.pack(pack_conv(weight, lanes, spec.chunk)))
    sums = plan.call(compute.conv2d(spec), "conv2d", data, packed)
    return _with_border(plan, spec, sums, border)


def _by_bytes(plan: Plan, operands: Operands, weight: Array, axis: int) -> Operands:
    """`operands`, or those of `pmaddubsw` where it is exact for these weights, whose reduced axis is `axis`."""
    if operands.data != "uint8":
        return operands
    pairs = byte_pairs(plan.target)
    return pairs if pairs is not None and stays_in_16_bits(weight, axis) else operands


def _few_channels(channels: int, taps: int, operands: Operands) -> bool:
    """Whether steps of a row's taps are at most half as many as steps of the channels under each of them."""
    return 2 * -(-channels * taps // operands.step) <= taps * -(-channels // operands.step)


def _of_taps(
    plan: Plan, source: Expr, weight: Array, window: Window, operands: Operands, border: Array | None
) -> Value:
    """A convolution of an image of one or two channels, as those of sound are: the taps of a row are its channels."""
    shape, (out, channels, height, width) = shape_of(source), weight.shape
    steps = -(-channels * width // operands.step) * operands.step
    block = min(steps, plan.lanes)
    rows = weight.transpose(0, 3, 1, 2).reshape(out, channels * width, height, 1)
    rows = np.pad(rows, [(0, 0), (0, -rows.shape[1] % block), (0, 0), (0, 0)])
    operands = _by_bytes(plan, operands, rows, 1)
    nhwc = plan.state(source).nhwc
    given = plan.plain(source) if nhwc is None else nhwc
    kernel = integer_compute.taps(shape, window, block, dtype_of(source), nhwc=nhwc is not None)
    data = plan.call(kernel, "taps", given)
    down = Window((height, 1), (window.stride[0], 1), (window.dilation[0], 1), (window.pad[0], 0), window.out)
    size = (shape[2], window.out[1])
    spec = ConvSpec(
        shape[0],
        rows.shape[1],
        size,
        out,
        down,
        plan.lanes,
        block,
        dtype=operands.accumulator,
        operands=operands,
    )
    packed = constant(spec.operands.pack(pack_conv(rows, plan.lanes, spec.chunk)))
    sums = plan.call(compute.conv2d(spec), "conv2d", data, packed)
    return _with_border(plan, replace(spec, window=window, in_size=(shape[2], shape[3])), sums, border)


def _values(plan: Plan, source: Expr) -> str:
    """The type whose values a tensor has."""
    bytes_ = dtype_of(source) == WIDE and holds_bytes(source, plan.definition)
    return "uint8" if bytes_ else dtype_of(source)


def _dense_conv(
    plan: Plan, source: Expr, weight: Array, window: Window, groups: int, operands: Operands
) -> tuple[ConvSpec, Array, Expr]:
    """The specification of a convolution, its weights with whole steps of input channels, and its blocked input."""
    batch, _, height, width = shape_of(source)
    weight = _whole_steps(weight, 1, operands)
    operands = _by_bytes(plan, operands, weight, 1)
    per_group = weight.shape[1]
    block = plan.lanes
    if per_group < plan.lanes and groups == 1 and not plan.is_blocked(source):
        block = per_group
    data = plan.blocked_by(source, block)
    spec = ConvSpec(
        batch,
        per_group * groups,
        (height, width),
        weight.shape[0],
        window,
        plan.lanes,
        block,
        groups,
        dtype=operands.accumulator,
        operands=operands,
    )
    return spec, weight, data


def _whole_steps(weight: Array, axis: int, operands: Operands) -> Array:
    """`weight` with zeros behind a reduced axis that is no whole number of steps."""
    missing = -weight.shape[axis] % operands.step
    widths = [(0, missing if a == axis else 0) for a in range(weight.ndim)]
    return np.pad(weight, widths) if missing else weight


def _with_border(plan: Plan, spec: ConvSpec, sums: Expr, border: Array | None) -> Value:
    if border is not None:
        table = block_channels(border, plan.lanes)
        kernel = integer_compute.add_border(spec, table.shape)
        sums = plan.call(kernel, "add_border", sums, constant(table))
    return Value(None, sums, spec.out_channels)


def _matmul(plan: Plan, call: Call) -> Value | None:
    weight = array_of(call.args[1])
    if weight is None and dtype_of(call) == "int32":
        return _batched(plan, call)
    if not _is_product(call) or weight is None or weight.ndim != 2:
        return None
    shape = shape_of(call)
    if len(shape) < 2:
        return None
    operands = plan.native(_operands(call.args[0]))
    flat = plan.flat(call.args[0])
    rows, inner = shape_of(flat)
    if rows > 1 and inner % INT8_SQUARES.depth == 0 and has_squares(operands, plan.target):
        operands = INT8_SQUARES
    missing = -inner % operands.depth
    if missing:
        flat = plan.emit(relax.op.nn.pad(flat, [0, 0, 0, missing]))
    weight = _whole_steps(weight, 0, operands)
    operands = _by_bytes(plan, operands, weight, 0)
    spec = DenseSpec(rows, inner + missing, weight.shape[1], plan.row_lanes, operands.accumulator, operands)
    packed = constant(operands.pack(pack_dense(weight, plan.row_lanes)))
    out = plan.call(compute.dense(spec), "dense", flat, packed)
    return Value(None, None, flat=out) if len(shape) > 2 else Value(out, None)


def _batched(plan: Plan, call: Call) -> Value | None:
    """A product of two computed tensors of 8 bits: by real numbers, which hold every sum of so few products exactly."""
    left, right = (shape_of(arg) for arg in call.args)
    if len(left) < 3 or left[:-2] != right[:-2] or any(dtype_of(arg) not in NARROW for arg in call.args):
        return None
    inner, cols = right[-2:]
    if cols < plan.lanes:
        return None
    parts = -(-inner // _most_products(call))
    sides = [plan.emit(relax.op.astype(plan.plain(arg), "float32")) for arg in call.args]
    total: Expr | None = None
    for part in range(parts):
        begin, end = inner * part // parts, inner * (part + 1) // parts
        spec = MatmulSpec(left[:-2], left[-2], end - begin, cols, plan.lanes)
        pieces = sides
        if parts > 1:
            rank = len(left)
            pieces = [
                plan.emit(relax.op.strided_slice(side, [axis], [begin], [end]))
                for side, axis in zip(sides, (rank - 1, rank - 2), strict=True)
            ]
        real = plan.call(compute.matmul(spec), "matmul", *pieces)
        sums = plan.emit(relax.op.astype(real, "int32"))
        total = sums if total is None else plan.emit(relax.op.add(total, sums))
    return Value(total, None)


def _most_products(call: Call) -> int:
    """How many products of the operands' largest magnitudes float32 adds up without rounding."""
    largest = [128 if dtype_of(arg) == "int8" else 255 for arg in call.args]
    return MANTISSA // (largest[0] * largest[1])
