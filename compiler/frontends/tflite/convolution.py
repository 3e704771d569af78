"""Convolutions, plain, depthwise and transposed, and products with weights."""

from __future__ import annotations

import numpy as np

from edgec.compiler.frontends.tflite import hybrid
from edgec.compiler.frontends.tflite.cells import rounded
from edgec.compiler.frontends.tflite.flat import Operator, Quantisation
from edgec.compiler.frontends.tflite.graph import Refused, Writer
from edgec.compiler.frontends.tflite.registry import SAME, activated, converts, same_padding


@converts("CONV_2D", inputs=(2, 3), outputs=1)
def _conv_2d(g: Writer, op: Operator) -> None:
    weights = g.tensor(op.inputs[1])
    filters = _weights(g, op.inputs[1], (0, 3, 1, 2), {0: 0})
    out, height, width, per_group = weights.shape
    channels = g.tensor(op.inputs[0]).shape[3]
    if per_group == 0 or channels % per_group or out % (channels // per_group):
        raise Refused(f"its filters of {per_group} channels do not fit the {channels} of its input")
    _convolve(g, op, filters, (height, width), channels // per_group)


@converts("DEPTHWISE_CONV_2D", inputs=(2, 3), outputs=1)
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


def _is_hybrid(g: Writer, data: int, weights: int) -> bool:
    """Whether fp32 activations meet int8 weights (dynamic range quantisation)."""
    return g.tensor(data).dtype == "float32" and g.tensor(weights).dtype in ("int8", "uint8")


def _convolve(g: Writer, op: Operator, filters: str, kernel: tuple[int, int], groups: int) -> None:
    options = op.options
    strides = (int(options.strideH), int(options.strideW))
    dilations = (int(options.dilationHFactor) or 1, int(options.dilationWFactor) or 1)
    size = g.tensor(op.inputs[0]).shape[1:3]
    pads = pads_of(size, kernel, strides, dilations, options.padding)
    x = g.get_nchw(op.inputs[0])
    if _is_hybrid(g, op.inputs[0], op.inputs[1]):
        # not a depthwise one: XNNPACK
        point_wise = op.kind == "CONV_2D" and kernel == strides == (
            1,
            1,
        )  # which XNNPACK computes as one product of rows
        axes = [1] if point_wise else [1, 2, 3]
        shape = {"kernel_shape": list(kernel), "strides": list(strides), "dilations": list(dilations)}
        if hybrid.is_integer(g, op.inputs[1]) and (point_wise or g.tensor(op.inputs[0]).shape[0] == 1):
            order = (0, 3, 1, 2) if op.kind == "CONV_2D" else (3, 0, 1, 2)
            attrs = {**shape, "pads": pads, "group": groups}
            y = hybrid.convolution(g, x, op.inputs[1], order, axes, attrs)
            for bias in _bias(g, op):
                y = g.op("Add", y, g.op("Reshape", bias, np.array([1, -1, 1, 1], np.int64)))
            y = activated(g, y, options.fusedActivationFunction, op.outputs[0])
            g.put(op.outputs[0], y, nchw=True)
            return
        x = rounded(g, x, axes)
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


@converts("TRANSPOSE_CONV", inputs=(3, 4), outputs=1)
def _transpose_conv(g: Writer, op: Operator) -> None:
    shape, options = g.ints(op.inputs[0]), op.options
    weights = g.tensor(op.inputs[1])
    kernel = weights.shape[1:3]
    strides = (int(options.strideH), int(options.strideW))
    size = g.tensor(op.inputs[2]).shape[1:3]
    begin, end, beyond = [], [], []
    for length, out, k, s in zip(size, shape[1:3], kernel, strides, strict=True):
        extra = (length - 1) * s + k - out
        if extra <= -s:
            raise Refused("its output is larger than its input and filters make")
        beyond.append(max(-extra, 0))  # further rows that no input reaches
        extra = max(extra, 0)
        first = extra // 2 if options.padding == SAME else 0
        begin.append(first)
        end.append(extra - first)
    x = g.get_nchw(op.inputs[2])
    y = g.op(
        "ConvTranspose",
        rounded(g, x, [1, 2, 3]) if _is_hybrid(g, op.inputs[2], op.inputs[1]) else x,
        _weights(g, op.inputs[1], (3, 0, 1, 2), {0: 1}),
        *_bias(g, op, 3),
        kernel_shape=list(kernel),
        strides=list(strides),
        pads=begin + end,
        output_padding=beyond,
    )
    y = activated(g, y, getattr(options, "fusedActivationFunction", 0), op.outputs[0])
    g.put(op.outputs[0], y, nchw=True)


@converts("FULLY_CONNECTED", inputs=(2, 3), outputs=(1, 2))
def _fully_connected(g: Writer, op: Operator) -> None:
    options = op.options
    x, weights = g.get(op.inputs[0]), g.tensor(op.inputs[1])
    width = weights.shape[1]
    if g.tensor(op.inputs[0]).shape[-1:] != (width,) or g.rank(op.inputs[0]) > 2:
        if options.keepNumDims and g.tensor(op.inputs[0]).shape[-1:] != (width,):
            raise Refused(f"its weights take {width} features")
        if not options.keepNumDims:
            x = g.op("Reshape", x, np.array([-1, width], np.int64))
    whole = _is_hybrid(g, op.inputs[0], op.inputs[1]) and hybrid.is_integer(g, op.inputs[1])
    if _is_hybrid(g, op.inputs[0], op.inputs[1]) and not whole:
        x = rounded(g, x, [-1])
    if whole:
        y = hybrid.product(g, x, op.inputs[1])
        for bias in _bias(g, op):
            y = g.op("Add", y, bias)
    elif g.rank(op.inputs[0]) == 2 or not options.keepNumDims:
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


@converts("BATCH_MATMUL", inputs=2, outputs=1)
def _batch_matmul(g: Writer, op: Operator) -> None:
    sides = []
    for index, flip in zip(op.inputs, (op.options.adjX, op.options.adjY), strict=False):
        x, rank = g.get(index), g.rank(index)
        order = [*range(rank - 2), rank - 1, rank - 2]
        sides.append(g.op("Transpose", x, perm=order) if flip else x)
    if _is_hybrid(g, op.inputs[0], op.inputs[1]):
        sides[0] = rounded(g, sides[0], [-1])
    g.put(op.outputs[0], g.op("MatMul", *sides))
