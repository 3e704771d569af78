"""Convolutions, products, pooling and resizing."""

from __future__ import annotations

from typing import Any

import numpy as np

from edgec.compiler.frontends.tflite.flat import Operator, Quantisation
from edgec.compiler.frontends.tflite.graph import Array, Refused, Writer, is_quantised
from edgec.compiler.frontends.tflite.registry import SAME, activated, converts, same_padding

TINY = 1e-30  # the scale of a row of zeros
MAX_UNROLLED = 256  # steps of a recurrent layer that are written out one by one


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
    """Activations as products with int8 weights see them: each row on a grid of 256 levels of its own.

    So do LiteRT's default kernels (XNNPACK); its other kernels use 255 levels around zero.
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
    pads = _pads(size, kernel, strides, dilations, options.padding)
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


def _pads(
    size: tuple[int, ...],
    kernel: tuple[int, ...],
    strides: tuple[int, ...],
    dilations: tuple[int, ...],
    padding: int,
) -> list[int]:
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


@converts("AVERAGE_POOL_2D", "MAX_POOL_2D", "L2_POOL_2D")
def _pool(g: Writer, op: Operator) -> None:
    options = op.options
    kernel = (int(options.filterHeight), int(options.filterWidth))
    strides = (int(options.strideH), int(options.strideW))
    pads = _pads(g.tensor(op.inputs[0]).shape[1:3], kernel, strides, (1, 1), options.padding)
    shape: dict[str, Any] = {"kernel_shape": list(kernel), "strides": list(strides), "pads": pads}
    x = g.get_nchw(op.inputs[0])
    if op.kind == "MAX_POOL_2D":
        y = g.op("MaxPool", x, **shape)
    elif op.kind == "AVERAGE_POOL_2D":
        y = g.op("AveragePool", x, count_include_pad=0, **shape)
    else:
        y = g.op("Sqrt", g.op("AveragePool", g.op("Mul", x, x), count_include_pad=0, **shape))
    y = activated(g, y, options.fusedActivationFunction, op.outputs[0])
    g.put(
        op.outputs[0],
        y,
        nchw=True,
        exact=op.kind == "MAX_POOL_2D" and g.same_grid(op.inputs[0], op.outputs[0]),
    )


@converts("RESIZE_BILINEAR", "RESIZE_NEAREST_NEIGHBOR")
def _resize(g: Writer, op: Operator) -> None:
    height, width = g.ints(op.inputs[1])
    options = op.options
    batch, _, _, channels = g.tensor(op.inputs[0]).shape
    mode = "asymmetric"
    mode = "half_pixel" if options.halfPixelCenters else mode
    mode = "align_corners" if options.alignCorners else mode
    attrs: dict[str, Any] = {"mode": "linear"}
    if op.kind == "RESIZE_NEAREST_NEIGHBOR":
        nearest = "floor" if mode == "asymmetric" else "round_prefer_ceil"
        attrs = {"mode": "nearest", "nearest_mode": nearest}
    sizes = np.array([batch, channels, height, width], np.int64)
    y = g.op("Resize", g.get_nchw(op.inputs[0]), "", "", sizes, coordinate_transformation_mode=mode, **attrs)
    exact = op.kind == "RESIZE_NEAREST_NEIGHBOR" and g.same_grid(op.inputs[0], op.outputs[0])
    g.put(op.outputs[0], y, nchw=True, exact=exact)


@converts("UNIDIRECTIONAL_SEQUENCE_LSTM")
def _lstm(g: Writer, op: Operator) -> None:
    inputs = op.inputs
    if any(i < len(inputs) and inputs[i] >= 0 for i in (16, 17, 20, 21, 22, 23)):
        raise Refused("it has a projection or layer normalisation")
    if inputs[1] < 0:
        raise Refused("its input and forget gates are coupled (CIFG)")
    # TensorFlow Lite: input, forget, cell, output; ONNX: input, output, forget, cell
    gates = (0, 3, 1, 2)
    w = np.concatenate([g.real(inputs[1 + k]) for k in gates])[None]
    r = np.concatenate([g.real(inputs[5 + k]) for k in gates])[None]
    hidden = r.shape[2]
    biases = [g.real(inputs[12 + k]) if inputs[12 + k] >= 0 else np.zeros(hidden, np.float32) for k in gates]
    b = np.concatenate([*biases, np.zeros(4 * hidden, np.float32)])[None]
    if inputs[9] >= 0:
        raise Refused("it has peepholes")
    clip = float(op.options.cellClip or 0.0)
    time = 0 if op.options.timeMajor else 1
    if clip:
        g.put(op.outputs[0], _unrolled_lstm(g, op, w[0], r[0], b[0, : 4 * hidden], clip))
        return
    x = g.get(inputs[0])
    x = x if time == 0 else g.op("Transpose", x, perm=[1, 0, 2])
    y = g.op("Squeeze", g.op("LSTM", x, w, r, b, hidden_size=hidden), np.array([1], np.int64))
    g.put(op.outputs[0], y if time == 0 else g.op("Transpose", y, perm=[1, 0, 2]))


def _unrolled_lstm(g: Writer, op: Operator, w: Array, r: Array, b: Array, clip: float) -> str:
    """An LSTM whose cells are clipped after each step, which ONNX's LSTM does not know. Gates: i, o, f, c."""
    time = 0 if op.options.timeMajor else 1
    shape = g.tensor(op.inputs[0]).shape
    if shape[time] > MAX_UNROLLED:
        raise Refused(f"it clips its cells, and has {shape[time]} steps; up to {MAX_UNROLLED} are compiled")
    hidden = r.shape[1]
    rows = _flattened(g, op.inputs[0], shape[2])
    driven = g.op("Gemm", rows, w, b, transB=1)
    driven = g.op("Reshape", driven, np.array([*shape[:2], 4 * hidden], np.int64))
    limits = [np.array(-clip, np.float32), np.array(clip, np.float32)]
    h = g.constant(np.zeros((shape[1 - time], hidden), np.float32))
    cell, steps = h, []
    for step in range(shape[time]):
        gates = g.op("Gather", driven, np.array(step, np.int64), axis=time)
        gates = g.op("Add", gates, g.op("MatMul", h, r.T.copy()))
        parts = g.op("Split", gates, np.full(4, hidden, np.int64), outputs=4, axis=1)
        opened, out, kept = (g.op("Sigmoid", part) for part in parts[:3])
        new = g.op("Mul", opened, g.op("Tanh", parts[3]))
        cell = g.op("Clip", g.op("Add", g.op("Mul", kept, cell), new), *limits)
        h = g.op("Mul", out, g.op("Tanh", cell))
        steps.append(g.op("Unsqueeze", h, np.array([time], np.int64)))
    return str(g.op("Concat", *steps, axis=time))


def _flattened(g: Writer, index: int, width: int) -> str:
    """The tensor as ``[-1, width]``; of quantised ones the integers are reshaped.

    ONNX Runtime 1.31 moves a DequantizeLinear behind a Reshape and then trips over its own QuantizeLinear.
    """
    shape = np.array([-1, width], np.int64)
    if is_quantised(g.tensor(index)):
        return g.dequantise(g.op("Reshape", g.integers(index), shape), index)
    return str(g.op("Reshape", g.get(index), shape))


@converts("L2_NORMALIZATION")
def _l2_normalization(g: Writer, op: Operator) -> None:
    x = g.get(op.inputs[0])
    size = g.op("ReduceSum", g.op("Mul", x, x), np.array([-1], np.int64), keepdims=1)
    size = g.op("Sqrt", g.op("Max", size, np.array(1e-12, np.float32)))
    g.put(
        op.outputs[0], activated(g, g.op("Div", x, size), op.options.fusedActivationFunction, op.outputs[0])
    )


@converts("RFFT2D")
def _rfft2d(g: Writer, op: Operator) -> None:
    rows, length = g.ints(op.inputs[1])
    tensor = g.tensor(op.inputs[0])
    if rows != 1 or len(tensor.shape) < 2 or tensor.shape[-2] != 1:
        raise Refused("it transforms along two axes")
    if tensor.shape[-1] != length:
        raise Refused(f"it transforms {length} of {tensor.shape[-1]} samples")
    angles = 2 * np.pi / length * np.outer(np.arange(length), np.arange(length // 2 + 1))
    x = g.get(op.inputs[0])
    parts = (np.cos(angles), -np.sin(angles))
    re, im = (str(g.op("MatMul", x, part.astype(np.float32))) for part in parts)
    g.complex[op.outputs[0]] = (re, im)


@converts("COMPLEX_ABS")
def _complex_abs(g: Writer, op: Operator) -> None:
    re, im = g.complex[op.inputs[0]]
    g.put(op.outputs[0], g.op("Sqrt", g.op("Add", g.op("Mul", re, re), g.op("Mul", im, im))))


@converts("SOFTMAX", "LOG_SOFTMAX")
def _softmax(g: Writer, op: Operator) -> None:
    x = g.get(op.inputs[0])
    beta = float(getattr(op.options, "beta", 1.0)) if op.kind == "SOFTMAX" else 1.0
    x = g.op("Mul", x, np.array(beta, np.float32)) if beta != 1.0 else x
    g.put(op.outputs[0], g.op("Softmax" if op.kind == "SOFTMAX" else "LogSoftmax", x, axis=-1))
