"""Regions of images, and samples at places that a grid names."""

from __future__ import annotations

import numpy as np
from tvm import relax

from edgec.compiler.frontends.relax.builder import Expr, constant
from edgec.compiler.frontends.relax.converters.registry import (
    CannotConvert,
    LeaveToTvm,
    Node,
    converts,
    converts_dynamic,
    dtype_of,
    scalar,
)
from edgec.compiler.frontends.relax.converters.selection import called
from edgec.compiler.frontends.relax.dims import dims_of
from edgec.compiler.kernels.grid_samples import GridSampler
from edgec.compiler.kernels.region_samples import RegionGrid

NEAREST, LINEAR = ("nearest",), ("linear", "bilinear")


@converts_dynamic("GridSample")
def _sample(node: Node) -> Expr:
    """The nearest pixel, or between four."""
    mode, padding = str(node.attrs.get("mode", "linear")), str(node.attrs.get("padding_mode", "zeros"))
    x, grid = node.input(0), node.input(1)
    shape, size = dims_of(x), dims_of(grid)
    if mode not in NEAREST + LINEAR or len(shape) != 4 or dtype_of(grid) not in ("float32", "float64"):
        raise CannotConvert(f"{mode} samples of {dtype_of(x)} of rank {len(shape)} are not compiled here")
    dtype = dtype_of(grid)
    align = bool(node.attrs.get("align_corners", 0))
    sampler = GridSampler(mode in NEAREST, padding, align, dtype)
    symbol = node.builder.get_unique_name("samples")
    kernel = sampler.kernel(symbol, shape, size[1:3])
    data = x if dtype_of(x) == dtype else node.emit(relax.op.astype(x, dtype))
    out = ([*shape[:2], *size[1:3]], dtype)
    made = node.emit(called(node, symbol, kernel, [data, grid], [out]))
    return made if dtype_of(x) == dtype else relax.op.astype(made, dtype_of(x))


@converts("GridSample")
def _grid_sample(node: Node) -> Expr:
    """Cubic samples beyond the borders are the border's pixels; TVM interpolates between these instead."""
    cubic = str(node.attrs.get("mode", "linear")) in ("cubic", "bicubic")
    if not cubic and len(node.shape(0)) == 4 and node.dtype(1) in ("float32", "float64"):
        return _sample(node)
    if not cubic or node.attrs.get("padding_mode", "zeros") != "border":
        raise LeaveToTvm
    x, grid, shape = node.input(0), node.input(1), node.shape(0)
    if len(shape) != 4:
        raise CannotConvert("cubic samples of other than images are not compiled")
    align = bool(node.attrs.get("align_corners", 0))
    # the normalised coordinates of the last pixels, x before y
    edge = [1.0 if align else 1.0 - 1.0 / size for size in (shape[3], shape[2])]
    last = constant(np.asarray(edge, dtype_of(grid)))
    within = relax.op.maximum(relax.op.minimum(grid, last), relax.op.negative(last))
    beyond = relax.op.greater(relax.op.abs(grid), scalar(1.0, grid))
    places = node.emit(relax.op.where(beyond, within, grid))
    return relax.op.image.grid_sample(
        x,
        node.emit(relax.op.permute_dims(places, [0, 3, 1, 2])),
        method="bicubic",
        layout="NCHW",
        padding_mode="border",
        align_corners=align,
    )


@converts("RoiAlign")
@converts_dynamic("RoiAlign")
def _roi_align(node: Node) -> Expr:
    x, regions, batch = (node.input(i) for i in range(3))
    shape, dtype = dims_of(x), dtype_of(x)
    if len(shape) != 4:
        raise CannotConvert("regions of other than images are not compiled")
    mode = str(node.attrs.get("coordinate_transformation_mode", "half_pixel" if node.opset >= 16 else ""))
    wide = dtype if dtype == "float64" else "float32"
    grid = RegionGrid(
        (int(node.attrs.get("output_height", 1)), int(node.attrs.get("output_width", 1))),
        int(node.attrs.get("sampling_ratio", 0)),
        float(node.attrs.get("spatial_scale", 1.0)),
        half_pixel=mode == "half_pixel",
        largest=str(node.attrs.get("mode", "avg")) == "max",
        dtype=wide,
    )
    data, corners = (v if dtype == wide else node.emit(relax.op.astype(v, wide)) for v in (x, regions))
    places = batch if dtype_of(batch) == "int64" else node.emit(relax.op.astype(batch, "int64"))
    symbol, count = node.builder.get_unique_name("regions"), dims_of(regions)[0]
    order = [shape[0], shape[2], shape[3], shape[1]]
    kernel = grid.kernel(symbol, order, count)
    turned = node.emit(relax.op.permute_dims(data, [0, 2, 3, 1]))
    out = ([count, *grid.cells, shape[1]], wide)
    made = node.emit(called(node, symbol, kernel, [turned, corners, places], [out]))
    made = node.emit(relax.op.permute_dims(made, [0, 3, 1, 2]))
    return made if dtype == wide else relax.op.astype(made, dtype)
