"""Definitions in TE of the kernels of quantised layers: sums of 8-bit products, exact in int32."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from tvm import te, tirx
from tvm.tirx import PrimFunc

from edgec.compiler.backends.cpu.compute import inside_image, prim_func
from edgec.compiler.backends.cpu.specs import ConvSpec, Window, WinogradSpec, encode
from edgec.compiler.graph.anchors import ANCHOR
from edgec.compiler.graph.fusion import BROADCAST
from edgec.compiler.graph.rewrite import Array


@dataclass(frozen=True)
class Classes:
    """The positions along an axis of the output, by which taps read padding there.

    The first `low` positions and those from `high` on are classes of their own, all between are one.

    Attributes:
        low: positions before the interior.
        high: the first position behind it.
        size: positions along the axis.
    """

    low: int
    high: int
    size: int

    @property
    def positions(self) -> list[int]:
        """A position of each class, in order."""
        if self.low >= self.high:
            return list(range(self.size))
        return [*range(self.low), self.low, *range(self.high, self.size)]

    def of(self, at: tirx.Expr) -> tirx.Expr:
        """The class of a position."""
        if self.low >= self.high:
            return at
        first = tirx.min(at, tirx.const(self.low, "int64"))
        return first + tirx.max(at - tirx.const(self.high - 1, "int64"), tirx.const(0, "int64"))


def classes(window: Window, axis: int, size: int) -> Classes:
    """The classes of the positions of a window along an axis of an input of `size`."""
    out, stride, pad = window.out[axis], window.stride[axis], window.pad[axis]
    reach = (window.kernel[axis] - 1) * window.dilation[axis]
    inside = [at for at in range(out) if at * stride >= pad and at * stride - pad + reach < size]
    return Classes(inside[0], inside[-1] + 1, out) if inside else Classes(out, 0, out)


def border_sums(weight: Array, window: Window, in_size: tuple[int, int], value: int) -> Array | None:
    """What taps that read padding of `value` add, by class of row and column.

    Args:
        weight: OIHW.
        window: padded on all sides.
        in_size: height and width before the padding.
        value: of each padded element, in every channel.

    Returns:
        `[1, out_channels, row_classes, column_classes]`, int32; None where no tap reads padding, or it is zero.
    """

    def outside(axis: int) -> Array:
        offsets = np.arange(window.kernel[axis]) * window.dilation[axis] - window.pad[axis]
        at = np.array(classes(window, axis, in_size[axis]).positions)[:, None] * window.stride[axis] + offsets
        return (at < 0) | (at >= in_size[axis])

    rows, columns = outside(0), outside(1)
    if not value or not (rows.any() or columns.any()):
        return None
    either = rows[:, None, :, None] | columns[None, :, None, :]
    taps = weight.astype(np.int64).sum(axis=1) * value  # [out_channels, height, width]
    sums: Array = np.einsum("yxij,oij->oyx", either.astype(np.int64), taps)[None].astype(np.int32)
    return sums


def add_border(spec: ConvSpec, table: tuple[int, ...]) -> PrimFunc:
    """Sums of a convolution plus those of its padding.

    Args:
        spec: of the convolution, which counts padding as zero.
        table: shape of the blocked `border_sums`: `[1, blocks, row_classes, column_classes, lanes]`.
    """
    shape = (spec.batch, table[1], *spec.window.out, spec.lanes)
    sums, border = te.placeholder(shape, "int32", "sums"), te.placeholder(table, "int32", "border")
    rows, columns = (classes(spec.window, axis, spec.in_size[axis]) for axis in (0, 1))

    def body(n: tirx.Expr, b: tirx.Expr, y: tirx.Expr, x: tirx.Expr, v: tirx.Expr) -> tirx.Expr:
        return sums[n, b, y, x, v] + border[0, b, rows.of(y), columns.of(x), v]

    kernel = prim_func([sums, border], te.compute(shape, body, name="add_border"))
    return kernel.with_attr("op_pattern", BROADCAST)  # an epilogue of the convolution


def taps(shape: tuple[int, ...], window: Window, block: int, dtype: str, *, nhwc: bool = False) -> PrimFunc:
    """The pixels that the taps of a row of a window read, as channels of a blocked tensor as wide as the result.

    Channel `tap * channels + c` is channel `c` under tap `tap`; beyond the image, and beyond the last tap, it is zero.

    Args:
        shape: of the image, NCHW.
        window: its columns are what the taps are taken from; rows stay as they are.
        block: channels of a block.
        dtype: of the pixels.
        nhwc: whether the channels are the last axis of what is given.
    """
    batch, channels, height, width = shape
    count = window.kernel[1] * channels
    data = te.placeholder((batch, height, width, channels) if nhwc else shape, dtype, "data")

    def body(n: tirx.Expr, b: tirx.Expr, y: tirx.Expr, x: tirx.Expr, v: tirx.Expr) -> tirx.Expr:
        at = b * block + v
        column = x * window.stride[1] + at // channels * window.dilation[1] - window.pad[1]
        inside = tirx.all(at < count, column >= 0, column < width)
        channel = at % channels
        value = data[n, y, column, channel] if nhwc else data[n, channel, y, column]
        return tirx.if_then_else(inside, value, tirx.const(0, dtype))

    made = te.compute((batch, -(-count // block), height, window.out[1], block), body, name="taps")
    return prim_func([data], made)


def quotient(spec: WinogradSpec) -> PrimFunc:
    """The sums of a convolution from four times the sums, as Winograd's algorithm makes them of integers."""
    shape = (spec.batch, -(-spec.out_channels // spec.lanes), *spec.window.out, spec.lanes)
    sums = te.placeholder(shape, "int32", "sums")
    made = te.compute(shape, lambda *at: sums[at] >> tirx.const(2, "int32"), name="quotient")
    return prim_func([sums], made).with_attr("op_pattern", BROADCAST)


def depthwise(spec: ConvSpec) -> PrimFunc:
    """Convolution of each channel with its own kernel; weights are `[blocks, kernel_height, kernel_width, lanes]`."""
    lanes, w = spec.lanes, spec.window
    blocks = -(-spec.in_channels // lanes)
    data = te.placeholder((spec.batch, blocks, *spec.in_size, lanes), spec.operands.data, "data")
    weight = te.placeholder((blocks, *w.kernel, lanes), spec.operands.weight, "weight")
    ky, kx = te.reduce_axis((0, w.kernel[0]), "ky"), te.reduce_axis((0, w.kernel[1]), "kx")

    def body(n: tirx.Expr, b: tirx.Expr, y: tirx.Expr, x: tirx.Expr, v: tirx.Expr) -> tirx.Expr:
        iy = y * w.stride[0] + ky * w.dilation[0] - w.pad[0]
        ix = x * w.stride[1] + kx * w.dilation[1] - w.pad[1]
        inside = inside_image(iy, ix, spec.in_size)
        value = tirx.if_then_else(inside, data[n, b, iy, ix, v].astype(spec.dtype), tirx.const(0, spec.dtype))
        return te.sum(value * weight[b, ky, kx, v].astype(spec.dtype), axis=[ky, kx])

    out = te.compute(
        (spec.batch, blocks, *w.out, lanes), body, name="depthwise", attrs={ANCHOR: encode(spec)}
    )
    return prim_func([data, weight], out, spec)
