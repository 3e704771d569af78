"""Pooling and resizing of images."""

from __future__ import annotations

from typing import Any

import numpy as np

from edgec.compiler.frontends.tflite.convolution import pads_of
from edgec.compiler.frontends.tflite.flat import Operator
from edgec.compiler.frontends.tflite.graph import BYTES, Array, Refused, Writer, halves_up
from edgec.compiler.frontends.tflite.registry import activated, converts


@converts("AVERAGE_POOL_2D", "MAX_POOL_2D", "L2_POOL_2D", inputs=1, outputs=1)
def _pool(g: Writer, op: Operator) -> None:
    options = op.options
    kernel = (int(options.filterHeight), int(options.filterWidth))
    strides = (int(options.strideH), int(options.strideW))
    if min(*kernel, *strides) < 1:
        raise Refused(f"its window is {kernel} in steps of {strides}")
    pads = pads_of(g.shape(op.inputs[0], 4)[1:3], kernel, strides, (1, 1), options.padding)
    shape: dict[str, Any] = {"kernel_shape": list(kernel), "strides": list(strides), "pads": pads}
    x = g.get_nchw(op.inputs[0])
    if op.kind == "MAX_POOL_2D":
        y = g.op("MaxPool", x, **shape)
    elif op.kind == "AVERAGE_POOL_2D" and _averages_integers(g, op):
        y = _integer_average(g, op, shape)
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


def _averages_integers(g: Writer, op: Operator) -> bool:
    return g.tensor(op.inputs[0]).dtype in BYTES and g.same_grid(op.inputs[0], op.outputs[0])


def _integer_average(g: Writer, op: Operator, shape: dict[str, Any]) -> str:
    """As LiteRT averages: of the stored integers, half of one rounded away from zero.

    Of up to 4096 integers no average but one halfway between two is so near to that point that the factor shows.
    """
    dtype, one = g.tensor(op.inputs[0]).dtype, np.array(1, np.float32)
    zero = np.array(0, dtype)
    codes = g.op("DequantizeLinear", g.quantise(g.get_nchw(op.inputs[0]), op.inputs[0]), one, zero)
    average = g.op("AveragePool", codes, count_include_pad=0, **shape)
    outwards = g.op("Mul", average, np.array(1 + 2.0**-20, np.float32))
    return g.dequantise(str(g.op("QuantizeLinear", outwards, one, zero)), op.outputs[0])


@converts("RESIZE_BILINEAR", "RESIZE_NEAREST_NEIGHBOR", inputs=2, outputs=1)
def _resize(g: Writer, op: Operator) -> None:
    height, width = g.ints(op.inputs[1])
    options = op.options
    batch, _, _, channels = g.shape(op.inputs[0], 4)
    if op.kind == "RESIZE_BILINEAR" and g.tensor(op.inputs[0]).dtype == "int16":
        _resize_fixed(g, op, (height, width))
        return
    mode = "asymmetric"
    mode = "half_pixel" if options.halfPixelCenters else mode
    mode = "align_corners" if options.alignCorners else mode
    attrs: dict[str, Any] = {"mode": "linear"}
    if op.kind == "RESIZE_NEAREST_NEIGHBOR":
        nearest = "floor" if mode == "asymmetric" else "round_prefer_ceil"
        attrs = {"mode": "nearest", "nearest_mode": nearest}
    sizes = np.array([batch, channels, height, width], np.int64)
    y = g.op("Resize", g.get_nchw(op.inputs[0]), "", "", sizes, coordinate_transformation_mode=mode, **attrs)
    same = g.same_grid(op.inputs[0], op.outputs[0])
    exact = op.kind == "RESIZE_NEAREST_NEIGHBOR" and same
    result = g.tensor(op.outputs[0])
    if not exact and same and result.dtype in BYTES:
        y = g.op("Add", y, np.array(halves_up(result), np.float32))  # as LiteRT's kernels, by a shift
    g.put(op.outputs[0], y, nchw=True, exact=exact)


def _resize_fixed(g: Writer, op: Operator, out: tuple[int, int]) -> None:
    """As LiteRT resizes 16-bit pictures: places and weights are multiples of 1/1024."""
    x = g.get_nchw(op.inputs[0])
    rows, columns = (_weights_of(op, n, to) for n, to in zip(g.shape(op.inputs[0])[1:3], out, strict=True))
    x = g.op("MatMul", g.op("MatMul", rows, x), columns.T.copy())
    g.put(op.outputs[0], x, nchw=True)


def _weights_of(op: Operator, size: int, out: int) -> Array:
    """The weights `[out, size]` of interpolation along an axis."""
    one, half = 1 << 10, bool(op.options.halfPixelCenters)
    scale = (one * size + out // 2) // out
    if op.options.alignCorners and out > 1:
        scale = (one * (size - 1) + (out - 1) // 2) // (out - 1)
    weights = np.zeros((out, size), np.float32)
    for place in range(out):
        at = place * scale + (scale // 2 - one // 2) * half
        low = max(int(at / one), 0)
        high = min(int((at + one - 1) / one), size - 1)
        weights[place, low] += (one - (at - one * low)) / one
        weights[place, high] += (at - one * low) / one
    return weights
