"""A kernel row of a convolution on an image that is not blocked, where vectors multiply by their elements (NEON).

The pixels that all taps of the row read are neighbours: they are loaded as vectors once, whatever the stride, and each
tap multiplies by the elements that it reads. A load for each pixel and tap would be three times as many.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from tvm.tirx import Stmt

from edgec.compiler.backends.cpu.specs import Window
from edgec.compiler.backends.cpu.templates.loop_nests import (
    Accumulators,
    Expr,
    broadcast,
    const,
    shuffled,
    unrolled,
)


def vectors_of_row(window: Window, width: int, lanes: int) -> int:
    """Vectors of pixels that a tile of `width` columns reads of a row."""
    reach = (width - 1) * window.stride[1] + (window.kernel[1] - 1) * window.dilation[1] + 1
    return -(-reach // lanes)


def widest(window: Window, blocks: int, lanes: int, registers: int) -> int:
    """The columns of a tile for whose sums, pixels and weights there are registers; 0 if there is none."""
    fitting = (
        width
        for width in range(registers, 0, -1)
        if (width + 1) * blocks + vectors_of_row(window, width, lanes) < registers  # one is spare
    )
    return next(fitting, 0)


@dataclass(frozen=True)
class Row:
    """What a tile reads of a row of the image.

    Attributes:
        window: of the convolution.
        valid: for each tap the columns of the tile, (first, end), that it reads inside the image for.
        lanes: elements of a vector.
    """

    window: Window
    valid: Sequence[tuple[int, int]]
    lanes: int

    def pixel(self, tap: int, column: int) -> int:
        """The pixel that a tap reads for a column, counted from the first tap's for the first column."""
        return column * self.window.stride[1] + tap * self.window.dilation[1]

    @property
    def starts(self) -> list[int]:
        """The first pixel of each vector; the last two may overlap. None where there are fewer pixels than lanes."""
        reached = [
            self.pixel(tap, column)
            for tap, (first, end) in enumerate(self.valid)
            for column in (first, end - 1)
            if first < end
        ]
        if not reached:
            return []
        low, high = min(reached), max(reached) + 1
        starts = list(range(low, high - self.lanes + 1, self.lanes))
        if starts and starts[-1] + self.lanes < high:
            starts.append(high - self.lanes)
        return starts

    def multiplied(
        self,
        acc: Accumulators,
        blocks: int,
        first: int,
        pixels: Callable[[Expr], Expr],
        weights: Callable[[Expr, Expr], Expr],
    ) -> Stmt:
        """The multiply-adds of a channel and a kernel row.

        Args:
            acc: `[columns, blocks]` of the tile.
            blocks: channel blocks of the tile.
            first: number of the accumulator of the first column.
            pixels: a vector from a pixel on.
            weights: the weights of a tap and a channel block.
        """
        starts = self.starts
        inputs = Accumulators(len(starts), self.lanes, acc.dtype)
        rows = Accumulators(blocks, self.lanes, acc.dtype)

        def element(tap: int, column: int) -> Expr:
            pixel = self.pixel(tap, column)
            number = max(k for k, start in enumerate(starts) if start <= pixel)
            return broadcast(shuffled([inputs.get(const(number))], [pixel - starts[number]]), self.lanes)

        def load(tap: Expr, j: Expr) -> Stmt:
            return rows.set(j, weights(tap, j))

        steps: list[Stmt] = [inputs.set(const(k), pixels(const(start))) for k, start in enumerate(starts)]
        for tap, (begin, end) in enumerate(self.valid):
            if begin >= end:
                continue
            steps.append(unrolled(blocks, partial(load, const(tap))))
            for column in range(begin, end):
                value = element(tap, column)
                for j in range(blocks):
                    k = const(first + column * blocks + j)
                    steps.append(acc.set(k, acc.get(k) + value * rows.get(const(j))))
        return rows.allocate([inputs.allocate(steps)])
