"""Convolutions, plain, depthwise and transposed, and products with weights."""

from __future__ import annotations

import numpy as np

from edgec.compiler.frontends.tflite.flat import Operator, Quantisation
from edgec.compiler.frontends.tflite.graph import Refused, Writer
from edgec.compiler.frontends.tflite.registry import SAME, activated, converts, same_padding

TINY = 1e-30  # the scale of a row of zeros


@converts("CONV_2D")
def _conv_2d(g: Writer, op: Operator) -> None:
    weights = g.tensor(op.inputs[1])
    filters = _weights(g, op.inputs[1], (0, 3, 1, 2), {0: 0})
    out, height, width, per_group = weights.shape
    channels = g.tensor(op.inputs[0]).shape[3]
    if per_group == 0 or channels % per_group or out % (channels // per_group):
        raise Refused(f"its filters of {per_group} channels do not fit the {channels} of its input")
    _convolve(g, op, filters, (height, width), channels // per_group)


@converts("DEPTHWISE_CONV_2D")
def _depthwise_conv_2d(g: Writer, op: Operator) -> None:
    weights = g.tensor(op.inputs[1])
    _, height, width, _ = weights.shape
    filters = _weights(g, op.inputs[1], (3, 0, 1, 2), {3: 0})
    _convolve(g, op, filters, (height, width), g.tensor(op.inputs[0]).shape[3])


def _weights(g: Writer, index: int, order: tuple[int, ...], axes: dict[int, int]) -> str:
    """Filters in ONNX's order of axes, integers kept as integers.

    Args:
        axes: where the axis of the scales goes.
    """
    tensor = g.tensor(index)
    if tensor.data is None:
        return str(g.op("Transpose", g.get(index), perm=list(order)))
    data = tensor.data.transpose(order)
    quantisation = tensor.quantisation
    if quantisation is None or data.dtype.kind == "f":
        return g.constant(data.astype(np.float32))
    axis = 0 if quantisation.per_tensor else axes.get(quantisation.axis, -1)
    if axis < 0:
        raise Refused(f"its filters are quantised along axis {quantisation.axis}")
    moved = Quantisation(quantisation.scale, quantisation.zero_point, axis)
    return g.dequantised(np.ascontiguousarray(data), moved)


def _bias(g: Writer, op: Operator, position: int = 2) -> list[str]:
    if len(op.inputs) <= position or op.inputs[position] < 0:
        return []
    index = op.inputs[position]
    return [g.constant(g.real(index))] if g.is_constant(index) else [g.get(index)]


def _is_hybrid(g: Writer, op: Operator) -> bool:
    """Whether fp32 activations meet int8 weights (dynamic range quantisation)."""
    weights = g.tensor(op.inputs[1])
    return g.tensor(op.inputs[0]).dtype == "float32" and weights.dtype in ("int8", "uint8")


def _rounded(g: Writer, x: str, axes: list[int]) -> str:
    """Activations as they enter products with int8 weights: each row rounded to a grid of 256 levels of its own.

    LiteRT's default kernels (XNNPACK) do so; its other kernels use 255 levels around zero.
    """
    along, zero = np.array(axes, np.int64), np.array(0, np.float32)
    low = g.op("Min", g.op("ReduceMin", x, along, keepdims=1), zero)
    high = g.op("Max", g.op("ReduceMax", x, along, keepdims=1), zero)
    scale = g.op("Div", g.op("Sub", high, low), np.array(255, np.float32))
    scale = g.op("Max", scale, np.array(TINY, np.float32))
    zero_point = g.op("Round", g.op("Sub", np.array(-128, np.float32), g.op("Div", low, scale)))
    stored = g.op("Add", g.op("Round", g.op("Div", x, scale)), zero_point)
    stored = g.op("Clip", stored, np.array(-128, np.float32), np.array(127, np.float32))
    return str(g.op("Mul", g.op("Sub", stored, zero_point), scale))


def _convolve(g: Writer, op: Operator, filters: str, kernel: tuple[int, int], groups: int) -> None:
    options = op.options
    strides = (int(options.strideH), int(options.strideW))
    dilations = (int(options.dilationHFactor) or 1, int(options.dilationWFactor) or 1)
    size = g.tensor(op.inputs[0]).shape[1:3]
    pads = pads_of(size, kernel, strides, dilations, options.padding)
    x = g.get_nchw(op.inputs[0])
    if _is_hybrid(g, op):
        point_wise = kernel == strides == (1, 1)  # which XNNPACK computes as one product of rows
        x = _rounded(g, x, [1] if point_wise else [1, 2, 3])
    y = g.op(
        "Conv",
        x,
        filters,
        *_bias(g, op),
        kernel_shape=list(kernel),
        strides=list(strides),
        dilations=list(dilations),
        pads=pads,
        group=groups,
    )
    y = activated(g, y, options.fusedActivationFunction, op.outputs[0])
    g.put(op.outputs[0], y, nchw=True)


def pads_of(
    size: tuple[int, ...],
    kernel: tuple[int, ...],
    strides: tuple[int, ...],
    dilations: tuple[int, ...],
    padding: int,
) -> list[int]:
    """The padding in ONNX's order, both begins before both ends."""
    if padding != SAME:
        return [0, 0, 0, 0]
    both = [same_padding(*parts) for parts in zip(size, kernel, strides, dilations, strict=True)]
    return [begin for begin, _ in both] + [end for _, end in both]


@converts("TRANSPOSE_CONV")
def _transpose_conv(g: Writer, op: Operator) -> None:
    shape, options = g.ints(op.inputs[0]), op.options
    weights = g.tensor(op.inputs[1])
    kernel = weights.shape[1:3]
    strides = (int(options.strideH), int(options.strideW))
    size = g.tensor(op.inputs[2]).shape[1:3]
    begin, end = [], []
    for length, out, k, s in zip(size, shape[1:3], kernel, strides, strict=True):
        extra = (length - 1) * s + k - out
        if extra < 0:
            raise Refused("its output is larger than its input and filters make")
        first = extra // 2 if options.padding == SAME else 0
        begin.append(first)
        end.append(extra - first)
    y = g.op(
        "ConvTranspose",
        g.get_nchw(op.inputs[2]),
        _weights(g, op.inputs[1], (3, 0, 1, 2), {0: 1}),
        *_bias(g, op, 3),
        kernel_shape=list(kernel),
        strides=list(strides),
        pads=begin + end,
    )
    y = activated(g, y, getattr(options, "fusedActivationFunction", 0), op.outputs[0])
    g.put(op.outputs[0], y, nchw=True)


@converts("FULLY_CONNECTED")
def _fully_connected(g: Writer, op: Operator) -> None:
    options = op.options
    x, weights = g.get(op.inputs[0]), g.tensor(op.inputs[1])
    width = weights.shape[1]
    if g.tensor(op.inputs[0]).shape[-1:] != (width,) or g.rank(op.inputs[0]) > 2:
        if options.keepNumDims and g.tensor(op.inputs[0]).shape[-1:] != (width,):
            raise Refused(f"its weights take {width} features")
        if not options.keepNumDims:
            x = g.op("Reshape", x, np.array([-1, width], np.int64))
    if _is_hybrid(g, op):
        x = _rounded(g, x, [-1])
    if g.rank(op.inputs[0]) == 2 or not options.keepNumDims:
        y = g.op("Gemm", x, _weights(g, op.inputs[1], (0, 1), {0: 0}), *_bias(g, op), transB=1)
    else:
        y = g.op("MatMul", x, _weights(g, op.inputs[1], (1, 0), {0: 1}))
        for bias in _bias(g, op):
            y = g.op("Add", y, bias)
    y = activated(g, y, options.fusedActivationFunction, op.outputs[0])
    rank = g.rank(op.outputs[0])
    if rank > 2 and not options.keepNumDims:
        y = g.op("Reshape", y, np.array(g.tensor(op.outputs[0]).shape, np.int64))
    g.put(op.outputs[0], y)


@converts("BATCH_MATMUL")
def _batch_matmul(g: Writer, op: Operator) -> None:
    sides = []
    for index, flip in zip(op.inputs, (op.options.adjX, op.options.adjY), strict=False):
        x, rank = g.get(index), g.rank(index)
        order = [*range(rank - 2), rank - 1, rank - 2]
        sides.append(g.op("Transpose", x, perm=order) if flip else x)
    g.put(op.outputs[0], g.op("MatMul", *sides))
