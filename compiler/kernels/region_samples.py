"""Regions of images in cells: the mean or the largest of a cell's samples, by the standard's RoiAlign-16.

Images are `[batch, height, width, channels]`: what depends on a sample's place is computed once for all channels.
"""

from __future__ import annotations

from dataclasses import dataclass

from tvm import tirx
from tvm.script.ir_builder import tirx as T
from tvm.tirx import PrimFunc

from edgec.compiler.kernels.loops import Buffers, Shape, counter, function, i64, store
from edgec.compiler.kernels.tir import Tir


@dataclass(frozen=True)
class RegionGrid:
    """How regions are sampled.

    Attributes:
        cells: height and width of the result.
        samples: samples of a cell along each axis; 0 for one a pixel.
        scale: from the corners' coordinates to pixels.
        half_pixel: coordinates name the corners of pixels, not their centres.
        largest: of the weighted neighbours of all samples, instead of the mean of the samples.
        dtype: of images and corners.
    """

    cells: tuple[int, int]
    samples: int
    scale: float
    half_pixel: bool
    largest: bool
    dtype: str = "float32"

    def kernel(self, symbol: str, shape: Shape, count: Tir) -> PrimFunc:
        """A function of images `x` of a shape, corners `regions [count, 4]` and `batch [count]` (int64).

        Its result is `y [count, height, width, channels]`.
        """
        given = {"x": (shape, self.dtype), "regions": ((count, 4), self.dtype), "batch": ((count,), "int64")}
        made: dict[str, tuple[Shape, str]] = {"y": ((count, *self.cells, shape[3]), self.dtype)}
        return function(symbol, given, made, self._body)

    def _body(self, b: Buffers) -> None:
        height, width = self.cells
        with T.parallel(0, b["y"].shape[0]) as region, T.serial(0, height) as row:
            above = _Axis(self, b, region, 0, row)
            with T.serial(0, width) as column:
                beside = _Axis(self, b, region, 1, column)
                self._cell(b, (region, row, column), above, beside)

    def _cell(self, b: Buffers, cell: tuple[Tir, Tir, Tir], above: _Axis, beside: _Axis) -> None:
        x, y, region = b["x"], b["y"], cell[0]
        channels, image = x.shape[3], b["batch"][region]
        first = counter(1)
        with T.serial(0, channels) as c:
            store(y, self._const(0.0), *cell, c)
        with T.serial(0, above.samples[0]) as i:
            top, bottom, down, seen = above.place(i)
            with T.serial(0, beside.samples[0]) as j:
                left, right, along, visible = beside.place(j)
                # a sample outside counts as zero
                inside = tirx.Select(
                    tirx.all(seen[0] > i64(0), visible[0] > i64(0)), self._const(1.0), self._const(0.0)
                )
                one = self._const(1.0)
                corners = [(top, left), (top, right), (bottom, left), (bottom, right)]
                shares = [(one - down[0], one - along[0]), (one - down[0], along[0])]
                shares += [(down[0], one - along[0]), (down[0], along[0])]
                weights = T.alloc_buffer((4,), self.dtype, scope="local")
                for k, (p, q) in enumerate(shares):
                    store(weights, p * q * inside, k)
                with T.serial(0, channels) as c:
                    parts = [x[image, r[0], s[0], c] * weights[k] for k, (r, s) in enumerate(corners)]
                    store(y, self._with(y[(*cell, c)], parts, first), *cell, c)
                store(first, i64(0), 0)
        if not self.largest:
            taken = tirx.max(above.samples[0] * beside.samples[0], i64(1)).astype(self.dtype)
            with T.serial(0, channels) as c:
                store(y, y[(*cell, c)] / taken, *cell, c)

    def _with(self, so_far: Tir, parts: list[Tir], first: Tir) -> Tir:
        if not self.largest:
            return so_far + (parts[0] + parts[1] + parts[2] + parts[3])
        best = tirx.max(tirx.max(parts[0], parts[1]), tirx.max(parts[2], parts[3]))
        return tirx.Select(first[0] == i64(1), best, tirx.max(so_far, best))

    def _const(self, value: float) -> Tir:
        return tirx.const(value, self.dtype)


class _Axis:
    """The samples of a region's cell along one axis of an image."""

    def __init__(self, grid: RegionGrid, b: Buffers, region: Tir, axis: int, cell: Tir) -> None:
        self.grid, self.size = grid, b["x"].shape[1 + axis]
        dtype, const = grid.dtype, grid._const
        shift = const(0.5 if grid.half_pixel else 0.0)
        begin = b["regions"][region, 1 - axis] * const(grid.scale) - shift
        length = b["regions"][region, 3 - axis] * const(grid.scale) - shift - begin
        if not grid.half_pixel:
            length = tirx.max(length, const(1.0))
        self.width = T.alloc_buffer((1,), dtype, scope="local")
        self.start = T.alloc_buffer((1,), dtype, scope="local")
        store(self.width, length / const(float(grid.cells[axis])), 0)
        store(self.start, begin + cell.astype(dtype) * self.width[0], 0)
        if grid.samples:
            self.samples = counter(grid.samples)
        else:
            self.samples = counter(tirx.max(tirx.ceil(self.width[0]), const(0.0)).astype("int64"))

    def place(self, sample: Tir) -> tuple[Tir, Tir, Tir, Tir]:
        """The pixels before and after a sample, its fraction between them, and whether it is inside (1 or 0)."""
        grid, dtype, const = self.grid, self.grid.dtype, self.grid._const
        step = (sample.astype(dtype) + const(0.5)) * self.width[0] / self.samples[0].astype(dtype)
        last = self.size - 1
        at = T.alloc_buffer((1,), dtype, scope="local")
        store(at, self.start[0] + step, 0)
        top = tirx.Cast(dtype, self.size) if not isinstance(self.size, int) else const(float(self.size))
        seen = counter(tirx.Select(tirx.all(at[0] >= const(-1.0), at[0] <= top), i64(1), i64(0)))
        store(at, tirx.min(tirx.max(at[0], const(0.0)), top - const(1.0)), 0)
        before = counter(at[0].astype("int64"))
        after = counter(tirx.min(before[0] + 1, i64(1) * last))
        share = T.alloc_buffer((1,), grid.dtype, scope="local")
        store(share, at[0] - before[0].astype(dtype), 0)
        return before, after, share, seen
