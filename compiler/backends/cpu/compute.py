"""Definitions in TE of the kernels that have a template, which computes the same faster.

Every function returns a PrimFunc whose anchor block carries its specification (see `edgec.compiler.backends.cpu.specs`)
as text; a PrimFunc that no template claims is scheduled generically and computes the same.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from tvm import te, tirx
from tvm.tirx import PrimFunc

from edgec.compiler.backends.cpu.specs import (
    ConvSpec,
    DenseSpec,
    MatmulSpec,
    PoolSpec,
    Spec,
    WinogradSpec,
    encode,
    lowest,
)
from edgec.compiler.backends.cpu.templates.winograd_tiles import odd
from edgec.compiler.backends.cpu.templates.winograd_transforms import tile_size, weight_matrix
from edgec.compiler.graph.anchors import ANCHOR
from edgec.compiler.operands.operands import in_pairs

# The weights from twice their transform for tiles of 2×2, times two.
_WHOLE_INVERSE = np.array([[-1, 0, 0, 0], [0, 1, -1, 0], [0, 0, 0, 1]])


def prim_func(inputs: list[te.Tensor], output: te.Tensor, spec: Spec | None = None) -> PrimFunc:
    """The kernel of a definition; `spec` is for the template that implements it."""
    made: PrimFunc = te.create_prim_func([*inputs, output], index_dtype_override="int64")
    made = made.without_attr("global_symbol")
    return made if spec is None else made.with_attr(ANCHOR, encode(spec))


def _widened(element: tirx.Expr, spec: ConvSpec | DenseSpec) -> tirx.Expr:
    """`element` in the type of the sums."""
    return element if str(element.dtype) == spec.dtype else element.astype(spec.dtype)


def inside_image(y: tirx.Expr, x: tirx.Expr, size: tuple[int, int]) -> tirx.Expr:
    """Whether a row and a column are those of an image of `size`."""
    return tirx.all(y >= 0, y < size[0], x >= 0, x < size[1])


def conv2d(spec: ConvSpec) -> PrimFunc:
    """Dense or grouped convolution (see `ConvSpec`); zero padding is part of it."""
    lanes, w = spec.lanes, spec.window
    blocks = -(-spec.out_channels // lanes)
    per_group = spec.in_channels // spec.groups
    height, width = spec.in_size
    if spec.in_block:
        data_shape: tuple[int, ...] = (
            spec.batch, -(-spec.in_channels // spec.in_block), height, width, spec.in_block,
        )  # fmt: skip
    else:
        data_shape = (spec.batch, spec.in_channels, height, width)
    operands, chunk = spec.operands, spec.chunk
    data = te.placeholder(data_shape, operands.data, "data")
    weight_shape = (blocks, per_group // chunk, *w.kernel, *operands.packed_shape(chunk, lanes))
    weight = te.placeholder(weight_shape, operands.weight, "weight")
    ic = te.reduce_axis((0, per_group), "ic")
    ky = te.reduce_axis((0, w.kernel[0]), "ky")
    kx = te.reduce_axis((0, w.kernel[1]), "kx")
    group_blocks = blocks // spec.groups

    def load(n: tirx.Expr, channel: tirx.Expr, y: tirx.Expr, x: tirx.Expr) -> tirx.Expr:
        if spec.in_block:
            value = data[n, channel // spec.in_block, y, x, channel % spec.in_block]
        else:
            value = data[n, channel, y, x]
        inside = inside_image(y, x, spec.in_size)
        return tirx.if_then_else(inside, _widened(value, spec), tirx.const(0, spec.dtype))

    def factor(b: tirx.Expr, v: tirx.Expr) -> tirx.Expr:
        place = operands.packed_place(ic % chunk, v)
        return _widened(weight[b, ic // chunk, ky, kx, *place], spec)

    def body(n: tirx.Expr, b: tirx.Expr, y: tirx.Expr, x: tirx.Expr, v: tirx.Expr) -> tirx.Expr:
        iy = y * w.stride[0] + ky * w.dilation[0] - w.pad[0]
        ix = x * w.stride[1] + kx * w.dilation[1] - w.pad[1]
        channel = ic if spec.groups == 1 else (b // group_blocks) * per_group + ic
        return te.sum(load(n, channel, iy, ix) * factor(b, v), axis=[ic, ky, kx])

    out = te.compute((spec.batch, blocks, *w.out, lanes), body, name="conv", attrs={ANCHOR: encode(spec)})
    return prim_func([data, weight], out, spec)


def winograd(spec: WinogradSpec) -> PrimFunc:
    """A 3×3 convolution by its transformed weights (see `WinogradSpec`), which the definition transforms back.

    Of integers, four times its sums.
    """
    conv, w, t = spec.conv, spec.window, tile_size(spec.m)
    lanes, height, width = spec.lanes, *spec.in_size
    blocks, vectors = -(-spec.out_channels // lanes), odd(spec.in_channels)
    pairs = in_pairs(spec.operands)
    back = np.linalg.pinv(weight_matrix(spec.m))  # [3, t]
    if pairs is not None:  # twice that of weights that have been doubled on both axes: of whole numbers
        vectors, back = odd(spec.in_channels // pairs.step), _WHOLE_INVERSE
    data_shape = (spec.batch, -(-spec.in_channels // lanes), height, width, lanes)
    data = te.placeholder(data_shape, spec.operands.data, "data")
    step, dtype = (1, spec.operands.weight) if pairs is None else (pairs.step, pairs.weight)
    weight = te.placeholder((blocks * t * t * vectors * step * lanes,), dtype, "weight")
    ic, ky, kx, i, j = (
        te.reduce_axis((0, n), name)
        for n, name in ((spec.in_channels, "ic"), (3, "ky"), (3, "kx"), (t, "i"), (t, "j"))
    )

    def factor(tap: tirx.Expr, row: tirx.Expr) -> tirx.Expr:
        value = tirx.const(0, conv.dtype)
        for (k, n), number in np.ndenumerate(back):
            here = tirx.all(tap == k, row == n)
            value = tirx.Select(here, tirx.const(number.item(), conv.dtype), value)
        return value

    def body(n: tirx.Expr, b: tirx.Expr, y: tirx.Expr, x: tirx.Expr, v: tirx.Expr) -> tirx.Expr:
        iy, ix = y + ky - w.pad[0], x + kx - w.pad[1]
        value = _widened(data[n, ic // lanes, iy, ix, ic % lanes], conv)
        value = tirx.if_then_else(inside_image(iy, ix, spec.in_size), value, tirx.const(0, conv.dtype))
        at = (((b * t + i) * t + j) * vectors + ic // step) * step * lanes
        by_row = pairs is None or pairs.by_row
        at = at + (ic % step * lanes + v if by_row else v * step + ic % step)
        return te.sum(
            value * (factor(ky, i) * factor(kx, j) * _widened(weight[at], conv)), axis=[ic, ky, kx, i, j]
        )

    out = te.compute((spec.batch, blocks, *w.out, lanes), body, name="winograd", attrs={ANCHOR: encode(spec)})
    return prim_func([data, weight], out, spec)


def depthwise(spec: ConvSpec) -> PrimFunc:
    """Convolution of each channel with its own kernel."""
    lanes, w = spec.lanes, spec.window
    blocks = -(-spec.in_channels // lanes)
    data = te.placeholder((spec.batch, blocks, *spec.in_size, lanes), spec.dtype, "data")
    weight = te.placeholder((blocks, *w.kernel, lanes), spec.dtype, "weight")
    ky = te.reduce_axis((0, w.kernel[0]), "ky")
    kx = te.reduce_axis((0, w.kernel[1]), "kx")

    def body(n: tirx.Expr, b: tirx.Expr, y: tirx.Expr, x: tirx.Expr, v: tirx.Expr) -> tirx.Expr:
        iy = y * w.stride[0] + ky * w.dilation[0] - w.pad[0]
        ix = x * w.stride[1] + kx * w.dilation[1] - w.pad[1]
        value = tirx.if_then_else(
            inside_image(iy, ix, spec.in_size), data[n, b, iy, ix, v], tirx.const(0, spec.dtype)
        )
        return te.sum(value * weight[b, ky, kx, v], axis=[ky, kx])

    out = te.compute(
        (spec.batch, blocks, *w.out, lanes), body, name="depthwise", attrs={ANCHOR: encode(spec)}
    )
    return prim_func([data, weight], out, spec)


def prelu(shape: tuple[int, ...], slopes: tuple[int, ...], dtype: str = "float32") -> PrimFunc:
    """`x` where it is not below zero, else `x` times its slope: one map, which is fused with what computes `x`.

    Args:
        shape: of `x`.
        slopes: the shape of the slopes, which are broadcast against `x`.
        dtype: of both.
    """
    data, slope = te.placeholder(shape, dtype, "data"), te.placeholder(slopes, dtype, "slope")

    def body(*at: tirx.Expr) -> tirx.Expr:
        place = [
            tirx.const(0, "int64") if n == 1 else i
            for i, n in zip(at[len(at) - len(slopes) :], slopes, strict=True)
        ]
        value = data(*at)
        return tirx.Select(value >= 0, value, value * slope(*place))

    return prim_func([data, slope], te.compute(shape, body, name="prelu"))


def pool(spec: PoolSpec) -> PrimFunc:
    """Maximum, or sum over the window (an average's division follows as its own block)."""
    w = spec.window
    data = te.placeholder((spec.batch, spec.blocks, *spec.in_size, spec.lanes), spec.dtype, "data")
    ky = te.reduce_axis((0, w.kernel[0]), "ky")
    kx = te.reduce_axis((0, w.kernel[1]), "kx")
    reducer: Callable[..., tirx.Expr] = te.max if spec.kind == "max" else te.sum
    empty = tirx.const(lowest(spec.dtype) if spec.kind == "max" else 0, spec.dtype)

    def body(n: tirx.Expr, b: tirx.Expr, y: tirx.Expr, x: tirx.Expr, v: tirx.Expr) -> tirx.Expr:
        iy = y * w.stride[0] + ky * w.dilation[0] - w.pad[0]
        ix = x * w.stride[1] + kx * w.dilation[1] - w.pad[1]
        return reducer(
            tirx.if_then_else(inside_image(iy, ix, spec.in_size), data[n, b, iy, ix, v], empty), axis=[ky, kx]
        )

    shape = (spec.batch, spec.blocks, *w.out, spec.lanes)
    total = te.compute(shape, body, name="pool", attrs={ANCHOR: encode(spec)})
    if spec.kind in ("max", "sum"):
        return prim_func([data], total, spec)
    mean = te.compute(shape, lambda n, b, y, x, v: _mean(total, spec, (n, b, y, x, v)), name="mean")
    return prim_func([data], mean, spec)


def _mean(total: te.Tensor, spec: PoolSpec, index: tuple[tirx.Expr, ...]) -> tirx.Expr:
    """A window's sum divided by the number of elements that count."""
    w = spec.window
    if spec.kind == "avg":
        return total[index] * tirx.const(1.0 / (w.kernel[0] * w.kernel[1]), spec.dtype)
    count = tirx.const(1, "int64")
    for axis, at in ((0, index[2]), (1, index[3])):
        start = at * w.stride[axis] - w.pad[axis]
        end = tirx.min(start + w.kernel[axis], spec.in_size[axis])
        count = count * (end - tirx.max(start, 0))
    return total[index] / count.astype(spec.dtype)


def dense(spec: DenseSpec) -> PrimFunc:
    """Rows times a constant matrix (see `DenseSpec`)."""
    operands, blocks = spec.operands, -(-spec.cols // spec.lanes)
    data = te.placeholder((spec.rows, spec.inner), operands.data, "data")
    shape = (blocks, *operands.packed_shape(spec.inner, spec.lanes))
    weight = te.placeholder(shape, operands.weight, "weight")
    k = te.reduce_axis((0, spec.inner), "k")

    def product(m: tirx.Expr, n: tirx.Expr) -> tirx.Expr:
        b, v = n // spec.lanes, n % spec.lanes
        factor = weight[b, *operands.packed_place(k, v)]
        return _widened(data[m, k], spec) * _widened(factor, spec)

    out = te.compute(
        (spec.rows, spec.cols),
        lambda m, n: te.sum(product(m, n), axis=k),
        name="dense",
        attrs={ANCHOR: encode(spec)},
    )
    return prim_func([data, weight], out, spec)


def matmul(spec: MatmulSpec) -> PrimFunc:
    """Batched product (see `MatmulSpec`)."""
    left = te.placeholder((*spec.batch, spec.rows, spec.inner), spec.dtype, "left")
    right = te.placeholder((*spec.batch, spec.inner, spec.cols), spec.dtype, "right")
    k = te.reduce_axis((0, spec.inner), "k")

    def body(*at: tirx.Expr) -> tirx.Expr:
        *batch, m, n = at
        return te.sum(left[*batch, m, k] * right[*batch, k, n], axis=k)

    out = te.compute((*spec.batch, spec.rows, spec.cols), body, name="matmul", attrs={ANCHOR: encode(spec)})
    return prim_func([left, right], out, spec)
