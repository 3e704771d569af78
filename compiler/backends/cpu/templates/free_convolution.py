"""Convolutions of images whose batch, height and width are known only when the model runs.

Channels, kernel, strides and groups are constants of the code. Tensors are plain (NCHW), and vectors run along the
pixels of an image. So that they are long in narrow images too, a padded copy of the input is read as one row: with a
pitch of `width of the output + reach of the kernel`, a step of one output is a step of one element, also from row to
row, and what is computed between the rows is not stored. With strides the copy has a plane for each remainder of
row and column: every vector is then consecutive elements. A kernel of one element without stride needs no padding:
its image is one row as it is, and each tile of pixels is copied so that its channels lie together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tvm import te, tirx
from tvm.tirx import PrimFunc

from edgec.compiler.backends.cpu.specs import encode, specification
from edgec.compiler.backends.cpu.templates.loop_nests import (
    Expr,
    Index,
    const,
)
from edgec.compiler.graph.anchors import ANCHOR
from edgec.targets.target import Target


@specification("free-convolution")
@dataclass(frozen=True)
class FreeConvSpec:
    """A convolution whose weights are `[groups, tiles, channels of a group, taps, filters of a tile]`.

    Attributes:
        axes: 1 for `[batch, channels, length]`, 2 for NCHW; kernel, strides, dilations have two axes in both cases.
        pads: at the top, at the left.
        tile: filters that are computed at a time; those of a group's last tile may be fewer.
    """

    channels: int
    filters: int
    groups: int
    kernel: tuple[int, int]
    strides: tuple[int, int]
    dilations: tuple[int, int]
    pads: tuple[int, int]
    axes: int
    tile: int

    @property
    def flops(self) -> int:
        """Unknown."""
        return 0

    @property
    def depth(self) -> int:
        """Channels of a group."""
        return self.channels // self.groups

    @property
    def width(self) -> int:
        """Filters of a group."""
        return self.filters // self.groups

    @property
    def tiles(self) -> int:
        """Tiles of a group."""
        return -(-self.width // self.tile)

    @property
    def reads_in_place(self) -> bool:
        """Whether each output is made of the input's elements of the same position, in an image that is one row."""
        return self.groups == 1 and self.kernel == self.strides == (1, 1) and self.pads == (0, 0)


def filters_at_once(width: int, target: Target) -> int:
    """How many of `width` filters a tile has: as equal as can be, and few enough for the registers."""
    most = 8 if target.vector_registers >= 32 else 4
    return -(-width // -(-width // most))


def free_convolution(spec: FreeConvSpec, shape: Sequence[Index], result: Sequence[Index]) -> PrimFunc:
    """The definition: a kernel from `shape` to `result`, sizes of which are variables."""
    data = te.placeholder(tuple(shape), "float32", "data")
    taps = spec.kernel[0] * spec.kernel[1]
    packed = (spec.groups, spec.tiles, spec.depth, taps, spec.tile)
    weight = te.placeholder(packed, "float32", "weight")
    c, k = te.reduce_axis((0, spec.depth), "c"), te.reduce_axis((0, taps), "k")
    size = shape[2:] if spec.axes == 2 else [1, shape[2]]

    def element(n: Expr, f: Expr, *at: Expr) -> Expr:
        place = at if spec.axes == 2 else (const(0), *at)
        tap = (tirx.indexdiv(k, spec.kernel[1]), tirx.indexmod(k, spec.kernel[1]))
        y, x = (place[a] * spec.strides[a] + tap[a] * spec.dilations[a] - spec.pads[a] for a in range(2))
        group, own = tirx.indexdiv(f, spec.width), tirx.indexmod(f, spec.width)
        inside = tirx.all(y >= 0, y < size[0], x >= 0, x < size[1])
        read = data[(n, group * spec.depth + c, *((y, x) if spec.axes == 2 else (x,)))]
        factor = weight[group, tirx.indexdiv(own, spec.tile), c, k, tirx.indexmod(own, spec.tile)]
        return te.sum(tirx.if_then_else(inside, read, tirx.const(0, "float32")) * factor, axis=[c, k])

    out = te.compute(tuple(result), element, name="convolution", attrs={ANCHOR: encode(spec)})
    made: PrimFunc = te.create_prim_func([data, weight, out], index_dtype_override="int64")
    return made.without_attr("global_symbol").with_attr(ANCHOR, encode(spec))
