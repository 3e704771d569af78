"""Regions of images: the largest sample of each cell, and the choice among boxes."""

from __future__ import annotations

from edgec.compiler.frontends.relax.builder import Expr
from edgec.compiler.frontends.relax.converters.registry import (
    CannotConvert,
    LeaveToTvm,
    Node,
    converts,
    dtype_of,
)
from edgec.compiler.kernels.region_samples import RegionGrid


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


@converts("NonMaxSuppression")
def _non_max_suppression(node: Node) -> Expr:
    raise CannotConvert("how many boxes it keeps depends on the data")
