"""Pooling and resizing of images."""

from __future__ import annotations

from typing import Any

import numpy as np

from edgec.compiler.frontends.tflite.convolution import pads_of
from edgec.compiler.frontends.tflite.flat import Operator
from edgec.compiler.frontends.tflite.graph import Writer
from edgec.compiler.frontends.tflite.registry import activated, converts


@converts("AVERAGE_POOL_2D", "MAX_POOL_2D", "L2_POOL_2D")
def _pool(g: Writer, op: Operator) -> None:
    options = op.options
    kernel = (int(options.filterHeight), int(options.filterWidth))
    strides = (int(options.strideH), int(options.strideW))
    pads = pads_of(g.tensor(op.inputs[0]).shape[1:3], kernel, strides, (1, 1), options.padding)
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
