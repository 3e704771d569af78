"""Regions of images: the largest sample of each cell, and the choice among boxes."""

from __future__ import annotations

import numpy as np
from tvm import relax

from edgec.compiler.frontends.relax.builder import Expr, constant
from edgec.compiler.frontends.relax.converters.registry import (
    CannotConvert,
    LeaveToTvm,
    Node,
    converts,
    dtype_of,
    scalar,
)
from edgec.compiler.kernels.region_samples import RegionGrid


@converts("GridSample")
def _grid_sample(node: Node) -> Expr:
    """Cubic samples beyond the borders are the border's pixels; TVM interpolates between these instead."""
    cubic = str(node.attrs.get("mode", "linear")) in ("cubic", "bicubic")
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
def _roi_align(node: Node) -> Expr:
    """Formulas: RoiAlign-16 of the standard's evaluator, which takes the maximum of the weighted neighbours."""
    if str(node.attrs.get("mode", "avg")) != "max":
        raise LeaveToTvm
    samples = int(node.attrs.get("sampling_ratio", 0))
    if samples <= 0:
        raise CannotConvert("how many samples it takes of a region depends on the region's size")
    if dtype_of(node.input(0)) != "float32":
        raise CannotConvert(f"regions of {dtype_of(node.input(0))} are not compiled")
    mode = str(node.attrs.get("coordinate_transformation_mode", "half_pixel" if node.opset >= 16 else ""))
    grid = RegionGrid(
        (int(node.attrs.get("output_height", 1)), int(node.attrs.get("output_width", 1))),
        samples,
        float(node.attrs.get("spatial_scale", 1.0)),
        half_pixel=mode == "half_pixel",
    )
    return node.builder.emit_te(grid.largest, node.input(0), node.input(1), node.input(2))
