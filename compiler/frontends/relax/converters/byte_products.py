"""Products of bytes with constant weights, as the kernels take them: int8 weights without zero point, int32 sums.

The other operand's zero point may be known only when the model runs (dynamic quantisation). Its part of the sums is
subtracted afterwards: the zero point times the sums of the weights, at the borders of an image of those weights that
lie inside. Unsigned weights that do not fit int8 without their zero point are multiplied as `w - 128`; what that lacks
of all weights of a channel alike is added as a multiple of the sum of the other operand.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
from tvm import relax

from edgec.compiler.frontends.relax.builder import Array, Expr, constant
from edgec.compiler.frontends.relax.converters.convolution import convolution, spatial_pads
from edgec.compiler.frontends.relax.converters.registry import (
    Node,
    dtype_of,
    is_constant,
    rank_of,
    reshaped,
    shape_of,
    value_of,
)

BYTES = ("int8", "uint8")
MOST = 2**31 - 1


@dataclass(frozen=True)
class Weights:
    """Constant weights less their zero point.

    Attributes:
        stored: int8.
        rest: what is missing of every weight, one number for each output channel or none.
        whole: both together, int64.
    """

    stored: Array
    rest: Array | None
    whole: Array


def _int8_weights(node: Node, position: int, zero: int, axis: int) -> Weights | None:
    """Constant weights as the kernels take them; None for computed ones."""
    w = node.input(position)
    if not is_constant(w) or (node.has(zero) and not is_constant(node.input(zero))):
        return None
    whole = value_of(w).astype(np.int64)
    if node.has(zero):
        points = value_of(node.input(zero)).astype(np.int64)
        if points.size > 1 and points.ndim != whole.ndim:
            points = points.reshape([-1 if a == axis else 1 for a in range(whole.ndim)])
        whole = whole - (points.reshape(()) if points.size == 1 else points)
    if not whole.size:
        return None
    if whole.min() >= -128 and whole.max() <= 127:
        return Weights(whole.astype(np.int8), None, whole)
    others = tuple(a for a in range(whole.ndim) if a != axis)
    low, high = whole.min(axis=others, keepdims=True), whole.max(axis=others, keepdims=True)
    if (high - low).max() > 255:
        return None
    rest = np.where((low >= -128) & (high <= 127), 0, low + 128)
    return Weights((whole - rest).astype(np.int8), rest.reshape(-1), whole)


def _zero(node: Node, position: int) -> Expr | None:
    """A zero point as int32; None where there is none, or it is 0."""
    if not node.has(position):
        return None
    z = node.input(position)
    if is_constant(z):
        return constant(value_of(z).astype("int32")) if value_of(z).any() else None
    return node.emit(relax.op.astype(z, "int32"))


def product_of_bytes(node: Node, operands: tuple[int, int], zeros: tuple[int, int]) -> Expr | None:
    """A matrix of bytes times constant weights; None where this is something else."""
    first, second = operands
    a = node.input(first)
    if dtype_of(a) not in BYTES or rank_of(a) < 2 or node.rank(second) != 2:
        return None
    weights = _int8_weights(node, second, zeros[1], 1)
    if weights is None or weights.whole.shape[0] * 255 * 256 * 3 > MOST:
        return None
    sums = node.emit(relax.op.matmul(a, constant(weights.stored), out_dtype="int32"))
    if weights.rest is not None:
        rows = node.emit(relax.op.sum(node.emit(relax.op.astype(a, "int32")), axis=[-1], keepdims=True))
        part = node.emit(relax.op.multiply(rows, constant(weights.rest.astype("int32"))))
        sums = node.emit(relax.op.add(sums, part))
    zero = _zero(node, zeros[0])
    if zero is None:
        return sums
    size = int(np.prod(shape_of(zero)))
    if size > 1 and len(shape_of(zero)) != rank_of(sums):  # one per row
        zero = node.emit(reshaped(zero, [size, 1]))
    elif size == 1:
        zero = node.emit(reshaped(zero, []))
    columns = weights.whole.sum(axis=0, keepdims=True).astype(np.int32)
    return relax.op.subtract(sums, node.emit(relax.op.multiply(zero, constant(columns))))


def conv_of_bytes(node: Node) -> Expr | None:
    """ConvInteger of an image of bytes with constant weights; None where this is something else."""
    if node.dtype(0) not in BYTES or node.rank(0) not in (3, 4, 5):
        return None
    weights = _int8_weights(node, 1, 3, 0)
    if weights is None or int(np.prod(weights.whole.shape[1:])) * 255 * 256 * 3 > MOST:
        return None
    sums = convolution(node, node.input(0), constant(weights.stored), "int32")
    spatial = node.rank(0) - 2
    if weights.rest is not None:
        sums = _with_rest(node, sums, weights.stored, weights.rest, spatial)
    zero = _zero(node, 2)
    if zero is None:
        return sums
    inside = constant(_sums_inside(node, weights.whole, shape_of(sums)[2:]))
    return relax.op.subtract(sums, node.emit(relax.op.multiply(node.emit(reshaped(zero, [])), inside)))


def _with_rest(node: Node, sums: Expr, stored: Array, rest: Array, spatial: int) -> Expr:
    """The sums with what the weights lack: sums over the windows, once for each group."""
    groups = int(node.attrs.get("group", 1))
    windows = convolution(
        node, node.input(0), constant(np.ones((groups, *stored.shape[1:]), np.int8)), "int32"
    )
    if 1 < groups < len(stored):
        windows = node.emit(relax.op.repeat(windows, len(stored) // groups, axis=1))
    factor = constant(rest.reshape(1, -1, *[1] * spatial).astype("int32"))
    return node.emit(relax.op.add(sums, node.emit(relax.op.multiply(windows, factor))))


def _sums_inside(node: Node, weights: Array, out: tuple[int, ...]) -> Array:
    """The sum of the weights that lie inside the image, `[1, channels, …]`; one place where nothing is padded."""
    kernel, sizes = weights.shape[2:], node.shape(0)[2:]
    n = len(kernel)
    strides = [int(s) for s in node.attrs.get("strides") or [1] * n]
    dilations = [int(d) for d in node.attrs.get("dilations") or [1] * n]
    pads = spatial_pads(node, sizes, kernel, strides, dilations)
    by_tap = weights.astype(np.int64).sum(axis=1)
    if not any(pads):
        whole = by_tap.reshape(len(by_tap), -1).sum(axis=1).reshape(1, -1, *[1] * n)
        return np.asarray(whole, np.int32)
    total = np.zeros((len(weights), *out), np.int64)
    for tap in itertools.product(*[range(k) for k in kernel]):
        mask = np.ones((1, *[1] * n), np.int64)
        for axis in range(n):
            at = np.arange(out[axis]) * strides[axis] - pads[axis] + tap[axis] * dilations[axis]
            shape = [-1 if i == axis + 1 else 1 for i in range(n + 1)]
            mask = mask * ((at >= 0) & (at < sizes[axis])).reshape(shape)
        total += by_tap[(slice(None), *tap)].reshape(-1, *[1] * n) * mask
    return np.asarray(total[None], np.int32)
