"""Samples of images at places that a grid names: the nearest pixel, or between four of them.

The place of a sample is computed once for all channels.
"""

from __future__ import annotations

from dataclasses import dataclass

from tvm import tirx
from tvm.script.ir_builder import tirx as T
from tvm.tirx import PrimFunc

from edgec.compiler.kernels.loops import Buffers, Shape, counter, function, i64, store
from edgec.compiler.kernels.tir import Tir


@dataclass(frozen=True)
class GridSampler:
    """How images are sampled.

    Attributes:
        nearest: the nearest pixel instead of the four around the place.
        padding: `zeros`, `border` or `reflection`: what is beyond the borders.
        align: -1 and 1 are the centres of the outermost pixels, not their edges.
        dtype: of images and grid.
    """

    nearest: bool
    padding: str
    align: bool
    dtype: str = "float32"

    def kernel(self, symbol: str, shape: Shape, size: Shape) -> PrimFunc:
        """A function of images `x [batch, channels, height, width]` and `grid [batch, rows, columns, 2]`.

        Its result is `y [batch, channels, rows, columns]`. `size` is that of the result, `(rows, columns)`.
        """
        given = {"x": (shape, self.dtype), "grid": ((shape[0], *size, 2), self.dtype)}
        made: dict[str, tuple[Shape, str]] = {"y": ((shape[0], shape[1], *size), self.dtype)}
        return function(symbol, given, made, self._body)

    def _body(self, b: Buffers) -> None:
        """All places of an image first, then channel by channel: a channel fits into a cache, all of them may not."""
        y, taps = b["y"], 1 if self.nearest else 4
        rows, columns = y.shape[2], y.shape[3]
        pixels = T.alloc_buffer((taps, rows, columns), "int32")
        weights = T.alloc_buffer((taps, rows, columns), self.dtype)
        with T.serial(0, y.shape[0]) as image:
            with T.parallel(0, rows) as row, T.serial(0, columns) as column:
                self._plan(b, (image, row, column), pixels, weights)
            with T.parallel(0, y.shape[1] * rows) as line, T.serial(0, columns) as column:
                c, row = tirx.floordiv(line, rows), tirx.floormod(line, rows)
                parts = [  # a pixel's number is within the whole channel: it may be beyond its first line
                    self._part(b["x"][image, c, 0, pixels[k, row, column]], weights[k, row, column])
                    for k in range(taps)
                ]
                total = parts[0]
                for one in parts[1:]:
                    total = total + one
                store(y, total, image, c, row, column)

    def _plan(self, b: Buffers, at: tuple[Tir, Tir, Tir], pixels: Tir, weights: Tir) -> None:
        """The pixels that a place reads, as numbers within a channel, and their weights."""
        sizes = (b["x"].shape[2], b["x"].shape[3])
        places = [self._place(b, *at, which) for which in (1, 0)]
        ends = [self._ends(place, size) for place, size in zip(places, sizes, strict=True)]
        for k, (one, other) in enumerate((one, other) for one in ends[0] for other in ends[1]):
            (line, seen, p), (pixel, visible, q) = one, other
            store(pixels, (line[0] * sizes[1] + pixel[0]).astype("int32"), k, *at[1:])
            weight = p * q
            if self.padding == "zeros":  # nothing of a pixel outside, not even what is no number
                weight = tirx.Select(seen[0] * visible[0] == i64(0), self._const(-1.0), weight)
            store(weights, weight, k, *at[1:])

    def _part(self, value: Tir, weight: Tir) -> Tir:
        value = value if self.nearest else value * weight
        if self.padding != "zeros":
            return value
        return tirx.Select(weight < self._const(0.0), self._const(0.0), value)

    def _ends(self, place: Tir, length: Tir) -> list[tuple[Tir, Tir, Tir]]:
        """The pixels along an axis that a place reads: number, whether inside (1 or 0), and weight."""
        if self.nearest:
            return [(*self._pixel(length, tirx.nearbyint(place[0])), self._const(1.0))]
        low = T.alloc_buffer((1,), self.dtype, scope="local")
        share = T.alloc_buffer((1,), self.dtype, scope="local")
        store(low, tirx.floor(place[0]), 0)
        store(share, place[0] - low[0], 0)
        one = self._const(1.0)
        return [
            (*self._pixel(length, low[0]), one - share[0]),
            (*self._pixel(length, low[0] + one), share[0]),
        ]

    def _place(self, b: Buffers, image: Tir, row: Tir, column: Tir, which: int) -> Tir:
        """The coordinate of a sample in pixels, brought into the image where it is not filled with zeros."""
        length = b["x"].shape[3 - which]
        size = self._const(float(length)) if isinstance(length, int) else tirx.Cast(self.dtype, length)
        one, half = self._const(1.0), self._const(0.5)
        made = T.alloc_buffer((1,), self.dtype, scope="local")
        given = b["grid"][image, row, column, which]
        at = (given + one) * half * (size - one) if self.align else ((given + one) * size - one) * half
        store(made, at, 0)
        if self.padding == "reflection":
            low, span = (self._const(0.0), size - one) if self.align else (-half, size)
            self._reflect(made, low, span)
        if self.padding in ("border", "reflection"):
            store(made, tirx.min(tirx.max(made[0], self._const(0.0)), size - one), 0)
        return made

    def _reflect(self, at: Tir, low: Tir, span: Tir) -> None:
        """Mirror a coordinate at both ends of a span until it is inside."""
        two = self._const(2.0)
        period = tirx.max(two * span, self._const(1e-30))
        offset = at[0] - low
        around = offset - tirx.floor(offset / period) * period
        store(at, low + tirx.Select(around <= span, around, period - around), 0)

    def _pixel(self, length: Tir, at: Tir) -> tuple[Tir, Tir]:
        """The number of a pixel, within the image, and whether it was inside (1 or 0)."""
        size = self._const(float(length)) if isinstance(length, int) else tirx.Cast(self.dtype, length)
        inside = tirx.all(at >= self._const(0.0), at <= size - self._const(1.0))
        near = tirx.min(tirx.max(at, self._const(0.0)), size - self._const(1.0))
        # NaN becomes a pixel, too
        number = counter(tirx.Select(tirx.isnan(at), i64(0), near.astype("int64")))
        return number, counter(tirx.Select(inside, i64(1), i64(0)))

    def _const(self, value: float) -> Tir:
        return tirx.const(value, self.dtype)
