"""Samples of regions: the largest of each cell (TVM has the mean)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tvm import te, tirx

from edgec.compiler.frontends.relax.builder import Expr
from edgec.compiler.frontends.relax.converters.bits import extreme_reducer
from edgec.compiler.frontends.relax.converters.registry import Decline, Node, Refusal, converts, dtype_of

Tir = Any  # TVM's expressions are made at import time and have no static types


@converts("RoiAlign")
def _roi_align(node: Node) -> Expr:
    """Formulas: RoiAlign-16 of the standard's evaluator, whose largest sample is that of weighted neighbours."""
    if str(node.attrs.get("mode", "avg")) != "max":
        raise Decline
    samples = int(node.attrs.get("sampling_ratio", 0))
    if samples <= 0:
        raise Refusal("how many samples it takes of a region depends on the region's size")
    if dtype_of(node.input(0)) != "float32":
        raise Refusal(f"regions of {dtype_of(node.input(0))} are not compiled")
    mode = str(node.attrs.get("coordinate_transformation_mode", "half_pixel" if node.opset >= 16 else ""))
    grid = _Grid(
        (int(node.attrs.get("output_height", 1)), int(node.attrs.get("output_width", 1))),
        samples,
        float(node.attrs.get("spatial_scale", 1.0)),
        half_pixel=mode == "half_pixel",
    )
    return node.builder.emit_te(grid.largest, node.input(0), node.input(1), node.input(2))


@dataclass(frozen=True)
class _Grid:
    """How regions are sampled: cells of the result ``(height, width)``, samples of a cell along each axis."""

    cells: tuple[int, int]
    samples: int
    scale: float
    half_pixel: bool

    def largest(self, x: Tir, regions: Tir, batch: Tir) -> Tir:
        """``[regions, channels, height, width]`` of pictures ``x`` and corners ``[regions, 4]``."""
        count, channels = int(regions.shape[0]), int(x.shape[1])
        iy = te.reduce_axis((0, self.samples), name="iy")
        ix = te.reduce_axis((0, self.samples), name="ix")
        largest = extreme_reducer(largest=True)

        def element(r: Tir, c: Tir, row: Tir, column: Tir) -> Tir:
            above, below, down, seen_y = self._place(regions, r, 0, row, iy, int(x.shape[2]))
            left, right, along, seen_x = self._place(regions, r, 1, column, ix, int(x.shape[3]))
            image, one = batch[r], _f(1.0)
            parts = [
                x[image, c, above, left] * ((one - down) * (one - along)),
                x[image, c, above, right] * ((one - down) * along),
                x[image, c, below, left] * (down * (one - along)),
                x[image, c, below, right] * (down * along),
            ]
            best = tirx.max(tirx.max(parts[0], parts[1]), tirx.max(parts[2], parts[3]))
            inside = tirx.Select(seen_y, tirx.Select(seen_x, best, _f(0.0)), _f(0.0))
            return largest(inside, axis=[iy, ix])

        return te.compute((count, channels, *self.cells), element, name="largest_samples")

    def _place(
        self, regions: Tir, r: Tir, axis: int, cell: Tir, sample: Tir, size: int
    ) -> tuple[Tir, Tir, Tir, Tir]:
        """Along an axis: the pixels before and after a sample, its way between them, whether it is in the picture."""
        shift = _f(0.5 if self.half_pixel else 0.0)
        begin = regions[r, 1 - axis] * _f(self.scale) - shift
        length = regions[r, 3 - axis] * _f(self.scale) - shift - begin
        if not self.half_pixel:
            length = tirx.max(length, _f(1.0))
        width = length / _f(float(self.cells[axis]))
        step = (sample.astype("float32") + _f(0.5)) * width / _f(float(self.samples))
        place = begin + cell.astype("float32") * width + step
        seen = tirx.all(place >= _f(-1.0), place <= _f(float(size)))
        place = tirx.min(tirx.max(place, _f(0.0)), _f(float(size - 1)))
        before = place.astype("int32")
        after = tirx.min(before + tirx.IntImm("int32", 1), tirx.IntImm("int32", size - 1))
        return before, after, place - before.astype("float32"), seen


def _f(value: float) -> Tir:
    return tirx.FloatImm("float32", value)
