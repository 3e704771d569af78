"""Changes between plain and blocked tensors, and concatenation of blocked ones, as TE definitions."""

from __future__ import annotations

from tvm import te, tirx
from tvm.tirx import PrimFunc

from edgec.compiler.backends.cpu.compute import prim_func


def pack(shape: tuple[int, ...], lanes: int, dtype: str, nhwc: bool = False) -> PrimFunc:
    """NCHW (or NHWC) to blocked; the lanes beyond the last channel become zero."""
    batch, channels, height, width = (shape[0], shape[3], shape[1], shape[2]) if nhwc else shape
    data = te.placeholder(shape, dtype, "data")

    def body(n: tirx.Expr, b: tirx.Expr, y: tirx.Expr, x: tirx.Expr, v: tirx.Expr) -> tirx.Expr:
        c = b * lanes + v
        value = data[n, y, x, c] if nhwc else data[n, c, y, x]
        if channels % lanes == 0:
            return value
        return tirx.if_then_else(c < channels, value, tirx.const(0, dtype))

    out = te.compute((batch, -(-channels // lanes), height, width, lanes), body, name="pack")
    return prim_func([data], out)


def unpack(shape: tuple[int, ...], channels: int, dtype: str, nhwc: bool = False) -> PrimFunc:
    """Blocked to NCHW (or NHWC)."""
    batch, _, height, width, lanes = shape
    data = te.placeholder(shape, dtype, "data")
    if nhwc:
        out = te.compute(
            (batch, height, width, channels),
            lambda n, y, x, c: data[n, c // lanes, y, x, c % lanes],
            name="unpack",
        )
    else:
        out = te.compute(
            (batch, channels, height, width),
            lambda n, c, y, x: data[n, c // lanes, y, x, c % lanes],
            name="unpack",
        )
    return prim_func([data], out)


def concat(channels: tuple[int, ...], shape: tuple[int, ...], dtype: str) -> PrimFunc:
    """Concatenate blocked tensors along the channels, which need not fill whole blocks.

    Args:
        channels: of each input.
        shape: of the result, blocked.
    """
    lanes = shape[4]
    inputs = [
        te.placeholder((shape[0], -(-c // lanes), shape[2], shape[3], lanes), dtype, f"data{i}")
        for i, c in enumerate(channels)
    ]

    def body(n: tirx.Expr, b: tirx.Expr, y: tirx.Expr, x: tirx.Expr, v: tirx.Expr) -> tirx.Expr:
        c, start = b * lanes + v, sum(channels)
        value = tirx.const(0, dtype)
        for data, count in zip(reversed(inputs), reversed(channels), strict=True):
            end, start = start, start - count
            aligned = start % lanes == 0
            here = (
                data[n, b - start // lanes, y, x, v]
                if aligned
                else data[n, (c - start) // lanes, y, x, (c - start) % lanes]
            )
            inside = b < -(-end // lanes) if end % lanes == 0 else c < end
            value = tirx.if_then_else(inside, here, value)
        return value

    return prim_func(inputs, te.compute(shape, body, name="concat"))


def interleave(shape: tuple[int, ...], strides: tuple[int, int], dtype: str) -> PrimFunc:
    """Phases, row by row in whole blocks of the channels, to the pixels of a picture.

    Args:
        shape: of the phases, blocked.
        strides: phases along height and width.
        dtype: of the elements.
    """
    batch, blocks, height, width, lanes = shape
    down, across = strides
    each = blocks // (down * across)
    data = te.placeholder(shape, dtype, "data")

    def body(n: tirx.Expr, b: tirx.Expr, y: tirx.Expr, x: tirx.Expr, v: tirx.Expr) -> tirx.Expr:
        phase = (y % down) * across + x % across
        return data[n, phase * each + b, y // down, x // across, v]

    out = te.compute((batch, each, height * down, width * across, lanes), body, name="interleave")
    return prim_func([data], out)
