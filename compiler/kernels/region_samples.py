"""The largest sample of each cell of a region."""

from __future__ import annotations

from dataclasses import dataclass

from tvm import te, tirx

from edgec.compiler.kernels.extremes import extreme_reducer
from edgec.compiler.kernels.tir import Tir, f32


@dataclass(frozen=True)
class RegionGrid:
    """How regions are sampled.

    Attributes:
        cells: height and width of the result.
        samples: samples of a cell along each axis.
        scale: from the corners' coordinates to pixels.
        half_pixel: coordinates name the corners of pixels, not their centres.
    """

    cells: tuple[int, int]
    samples: int
    scale: float
    half_pixel: bool

    def largest(self, x: Tir, regions: Tir, batch: Tir) -> Tir:
        """`[regions, channels, height, width]` of images `x` and corners `[regions, 4]`."""
        count, channels = int(regions.shape[0]), int(x.shape[1])
        iy = te.reduce_axis((0, self.samples), name="iy")
        ix = te.reduce_axis((0, self.samples), name="ix")
        largest = extreme_reducer(largest=True)

        def element(r: Tir, c: Tir, row: Tir, column: Tir) -> Tir:
            above, below, down, seen_y = self._place(regions, r, 0, row, iy, int(x.shape[2]))
            left, right, along, seen_x = self._place(regions, r, 1, column, ix, int(x.shape[3]))
            image, one = batch[r], f32(1.0)
            parts = [
                x[image, c, above, left] * ((one - down) * (one - along)),
                x[image, c, above, right] * ((one - down) * along),
                x[image, c, below, left] * (down * (one - along)),
                x[image, c, below, right] * (down * along),
            ]
            best = tirx.max(tirx.max(parts[0], parts[1]), tirx.max(parts[2], parts[3]))
            inside = tirx.Select(seen_y, tirx.Select(seen_x, best, f32(0.0)), f32(0.0))
            return largest(inside, axis=[iy, ix])

        return te.compute((count, channels, *self.cells), element, name="largest_samples")

    def _place(
        self, regions: Tir, r: Tir, axis: int, cell: Tir, sample: Tir, size: int
    ) -> tuple[Tir, Tir, Tir, Tir]:
        """Along an axis: the pixels before and after a sample, its fraction between them, and whether it is inside."""
        shift = f32(0.5 if self.half_pixel else 0.0)
        begin = regions[r, 1 - axis] * f32(self.scale) - shift
        length = regions[r, 3 - axis] * f32(self.scale) - shift - begin
        if not self.half_pixel:
            length = tirx.max(length, f32(1.0))
        width = length / f32(float(self.cells[axis]))
        step = (sample.astype("float32") + f32(0.5)) * width / f32(float(self.samples))
        place = begin + cell.astype("float32") * width + step
        seen = tirx.all(place >= f32(-1.0), place <= f32(float(size)))
        place = tirx.min(tirx.max(place, f32(0.0)), f32(float(size - 1)))
        before = place.astype("int32")
        after = tirx.min(before + tirx.IntImm("int32", 1), tirx.IntImm("int32", size - 1))
        return before, after, place - before.astype("float32"), seen
