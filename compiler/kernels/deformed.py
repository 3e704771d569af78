"""Samples of images beside a window's own places, by offsets: what a deformable convolution multiplies."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tvm import te, tirx

from edgec.compiler.kernels.tir import Tir


@dataclass(frozen=True)
class DeformedWindow:
    """How windows are placed.

    Attributes:
        kernel: height and width.
        strides: from window to window.
        dilations: from element to element.
        pads: before the image, along each axis.
        groups: of channels with the same offsets.
    """

    kernel: tuple[int, int]
    strides: tuple[int, int]
    dilations: tuple[int, int]
    pads: tuple[int, int]
    groups: int

    def columns(self, x: Tir, offsets: Tir, *mask: Tir, shape: Sequence[int]) -> Tir:
        """`[batch, channels, elements of a window, rows, columns]` of `x [batch, channels, height, width]`.

        Args:
            x: the images.
            offsets: `[batch, groups · elements · 2, rows, columns]`, down before across.
            mask: a factor of each sample, `[batch, groups · elements, rows, columns]`, or nothing.
            shape: `rows, columns` of the result.
        """
        dtype, (height, width) = x.dtype, x.shape[2:]
        taps = self.kernel[0] * self.kernel[1]
        own = int(x.shape[1]) // self.groups

        def pixel(n: Tir, c: Tir, row: Tir, column: Tir) -> Tir:
            inside = tirx.all(row >= 0, row < height, column >= 0, column < width)
            return tirx.if_then_else(inside, x[n, c, row, column], tirx.const(0, dtype))

        def element(n: Tir, c: Tir, tap: Tir, i: Tir, j: Tir) -> Tir:
            at = (tirx.floordiv(c, own) * taps + tap) * 2
            ends = []
            for axis, (place, k) in enumerate(
                ((i, tirx.floordiv(tap, self.kernel[1])), (j, tirx.floormod(tap, self.kernel[1])))
            ):
                begin = place * self.strides[axis] - self.pads[axis] + k * self.dilations[axis]
                real = begin.astype(dtype) + offsets[n, at + axis, i, j]
                # so far out that no pixel is near, the number still has to fit
                limit = tirx.const(1e6, dtype)
                real = tirx.max(tirx.min(real, limit), -limit)
                low = tirx.floor(real)
                ends.append((low.astype("int32"), real - low))
            (top, down), (left, along) = ends
            one = tirx.const(1, dtype)
            value = pixel(n, c, top, left) * (one - down) * (one - along)
            value += pixel(n, c, top, left + 1) * (one - down) * along
            value += pixel(n, c, top + 1, left) * down * (one - along)
            value += pixel(n, c, top + 1, left + 1) * down * along
            return value * mask[0][n, tirx.floordiv(c, own) * taps + tap, i, j] if mask else value

        return te.compute((x.shape[0], x.shape[1], taps, *shape), element, name="columns")
