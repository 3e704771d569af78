"""Integer arithmetic of quantised models: ConvInteger, MatMulInteger, and the QLinear operators.

With constant grids the QLinear operators become `dequantize`, the operator itself and `quantize`, which
`edgec.compiler.graph.integer` rewrites to integer arithmetic; products with constant weights that a model writes as
integers stay such. Others are computed exactly as well: in fp32 where a sum stays below 2^24 (each product is below
2^16, so up to 256 of them may be added without rounding), else in int32.
"""

from __future__ import annotations

import numpy as np
from tvm import relax

from edgec.compiler.frontends.relax.builder import Array, Expr, constant
from edgec.compiler.frontends.relax.converters.byte_products import conv_of_bytes, product_of_bytes
from edgec.compiler.frontends.relax.converters.convolution import convolution
from edgec.compiler.frontends.relax.converters.layers_at_run_time import convolved, product_of
from edgec.compiler.frontends.relax.converters.registry import (
    MICROSOFT,
    CannotConvert,
    Node,
    axis_of,
    converts,
    converts_dynamic,
    dtype_of,
    is_constant,
    rank_of,
    reshaped,
    shape_of,
    value_of,
)
from edgec.compiler.frontends.relax.dims import dims_of, is_static


def _as(node: Node, value: Expr, dtype: str) -> Expr:
    if is_constant(value):
        return constant(value_of(value).astype(dtype))
    return value if dtype_of(value) == dtype else node.emit(relax.op.astype(value, dtype))


def _channelwise(value: Expr, axis: int, rank: int) -> Expr:
    """A vector shaped to broadcast along one axis; a scalar stays one, and so does a tensor of all axes."""
    size = int(np.prod(shape_of(value)))
    if size > 1 and len(shape_of(value)) == rank > 1:
        return value
    if size == 1:
        return reshaped(value, [])
    shape = [1] * rank
    shape[axis] = size
    return reshaped(value, shape)


def centred(node: Node, position: int, zero: int, dtype: str, axis: int = 0) -> Expr:
    """An integer input minus its zero point (given at input `zero`, per tensor or along `axis`)."""
    x = node.input(position)
    if not node.has(zero):
        return _as(node, x, dtype)
    z = node.input(zero)
    if is_constant(z) and not value_of(z).any():
        return _as(node, x, dtype)
    rank = rank_of(x)
    if is_constant(x) and is_constant(z):
        points = value_of(z).astype("int32")
        if points.size > 1 and points.ndim != rank:
            points = points.reshape([-1 if a == axis else 1 for a in range(rank)])
        return constant((value_of(x).astype("int32") - points).astype(dtype))
    offset = node.emit(_channelwise(_as(node, z, dtype), axis, rank))
    return node.emit(relax.op.subtract(_as(node, x, dtype), offset))


def exact_type(products: int) -> str:
    """The type in which this many products of 8-bit integers add up without rounding; fp32 if possible."""
    return "float32" if products * 255 * 255 < 2**24 else "int32"


def _convolution(node: Node, x: Expr, w: Expr) -> Expr:
    """The convolution by the node's attributes, of sizes known now or only at run time."""
    return convolution(node, x, w) if is_static(x) else convolved(node, x, w)


@converts("ConvInteger")
@converts_dynamic("ConvInteger")
def _conv_integer(node: Node) -> Expr:
    made = conv_of_bytes(node) if is_static(node.input(0)) else None
    if made is not None:
        return made
    dtype = exact_type(int(np.prod(node.shape(1)[1:])))
    x, w = centred(node, 0, 2, dtype), centred(node, 1, 3, dtype)
    return _as(node, _convolution(node, x, w), "int32")


@converts("MatMulInteger")
@converts_dynamic("MatMulInteger")
def _matmul_integer(node: Node) -> Expr:
    return integer_product(node, (0, 1), (2, 3))


def integer_product(node: Node, operands: tuple[int, int], zeros: tuple[int, int]) -> Expr:
    """The product of two matrices of integers less their zero points, int32.

    Args:
        operands: positions of both matrices.
        zeros: positions of their zero points, which may be left out: per tensor, per row of the first, per column of
            the second.
    """
    first, second = operands
    known = is_static(node.input(first)) and is_static(node.input(second))
    made = product_of_bytes(node, operands, zeros) if known else None
    if made is not None:
        return made
    dtype = exact_type(_terms(node, first, second))
    a = centred(node, first, zeros[0], dtype, axis=max(node.rank(first) - 2, 0))
    b = centred(node, second, zeros[1], dtype, axis=node.rank(second) - 1)
    return _as(node, node.emit(_product(node, a, b)), "int32")


def _product(node: Node, a: Expr, b: Expr) -> Expr:
    return relax.op.matmul(a, b) if is_static(a) and is_static(b) else product_of(node, a, b)


def _terms(node: Node, first: int, second: int) -> int:
    """How many products each element of a matrix product adds up; many where that is known only at run time."""
    left, right = dims_of(node.input(first))[-1], dims_of(node.input(second))
    counts = [n for n in (left, right[max(len(right) - 2, 0)]) if isinstance(n, int)]
    return counts[0] if counts else 1 << 16


def dequantised(node: Node, x: int, scale: int, zero: int, axis: int = 1) -> Expr:
    """The real values of three inputs (integers, scale, zero point), in fp32."""
    rank = node.rank(x)
    axis = min(axis, max(rank - 1, 0))
    if _has_grid(node, scale, zero) and rank > 0:
        points = node.array(zero) if node.has(zero) else None
        return on_grid(node, node.input(x), value_of(node.input(scale)), points, axis)
    real = centred(node, x, zero, "float32", axis)
    factor = node.input(scale)
    if is_constant(real) and is_constant(factor):
        sizes = value_of(factor)
        if sizes.size > 1:
            sizes = sizes.reshape([-1 if a == axis else 1 for a in range(rank)])
        return constant((value_of(real) * sizes.reshape(sizes.shape or ())).astype("float32"))
    return node.emit(relax.op.multiply(real, node.emit(_channelwise(factor, axis, rank))))


def quantised(node: Node, x: Expr, scale: Expr, zero: Expr | None, dtype: str, axis: int = 1) -> Expr:
    """Real values as integers: rounded half to even, and saturated."""
    if np.dtype(dtype).kind not in "iu":
        raise CannotConvert("its result is not of integers of 8 bits or more")
    rank, limits = rank_of(x), np.iinfo(np.dtype(dtype))
    axis = min(axis, max(rank - 1, 0))
    known = is_constant(scale) and (zero is None or is_constant(zero)) and dtype_of(scale) == "float32"
    if known and rank > 0:
        sizes = value_of(scale)
        points = np.zeros(sizes.shape, "int32") if zero is None else value_of(zero)
        return node.emit(to_grid(x, sizes, points, axis, dtype))
    scaled = relax.op.round(relax.op.divide(x, node.emit(_channelwise(scale, axis, rank))))
    if zero is not None and not (is_constant(zero) and not value_of(zero).any()):
        offset = node.emit(_channelwise(_as(node, zero, "float32"), axis, rank))
        scaled = relax.op.add(scaled, offset)
    within = relax.op.minimum(
        relax.op.maximum(scaled, constant(float(limits.min), "float32")),
        constant(float(limits.max), "float32"),
    )
    return node.emit(relax.op.astype(within, dtype))


def _has_grid(node: Node, *positions: int) -> bool:
    """Whether a scale and a zero point are known when the model is compiled."""
    return all(not node.has(p) or is_constant(node.input(p)) for p in positions)


def on_grid(node: Node, x: Expr, scale: Array, zero: Array | None, axis: int) -> Expr:
    """Integers as the real numbers that they stand for, to be rewritten to integer arithmetic."""
    points = np.zeros(scale.shape, "int32") if zero is None else zero
    return node.emit(relax.op.dequantize(x, *_parameters(scale, points), axis if scale.size > 1 else 0))


def to_grid(x: Expr, scale: Array, zero: Array, axis: int, dtype: str) -> Expr:
    """Real numbers as integers, to be rewritten to integer arithmetic."""
    return relax.op.quantize(x, *_parameters(scale, zero), axis if scale.size > 1 else 0, dtype)


def _parameters(scale: Array, zero: Array) -> tuple[Expr, Expr]:
    size = max(scale.size, zero.size)
    shape = () if size == 1 else (size,)
    pair = (scale.astype("float32"), zero.astype("int32"))
    first, second = (np.broadcast_to(a.reshape(-1), (size,)).reshape(shape) for a in pair)
    return constant(first), constant(second)


def _grids_are_known(node: Node, *pairs: tuple[int, int]) -> bool:
    """Whether scales and zero points are constants of one value, or one per slice of an axis."""
    flat = all(
        int(np.prod(node.shape(p))) == max(node.shape(p), default=1)
        for pair in pairs
        for p in pair
        if node.has(p)
    )
    return flat and all(_has_grid(node, *pair) for pair in pairs)


@converts("QLinearConv")
@converts_dynamic("QLinearConv")
def _qlinear_conv(node: Node) -> Expr:
    rank, w_shape = node.rank(0), node.shape(3)
    if _grids_are_known(node, (1, 2), (4, 5), (6, 7)) and is_constant(node.input(3)):
        x, w = dequantised(node, 0, 1, 2), dequantised(node, 3, 4, 5, axis=0)
        y = _convolution(node, x, w)
        if node.has(8):
            scale = value_of(node.input(1)).reshape(-1) * value_of(node.input(4)).reshape(-1)
            bias = on_grid(node, node.input(8), scale, None, 0)
            y = node.emit(relax.op.add(y, node.emit(_channelwise(bias, 1, rank))))
        return quantised(node, y, node.input(6), node.input(7), node.dtype(7))
    dtype = exact_type(int(np.prod(w_shape[1:])))
    sums = _convolution(node, centred(node, 0, 2, dtype), centred(node, 3, 5, dtype, axis=0))
    if node.has(8):
        bias = _channelwise(_as(node, node.input(8), dtype), 1, rank)
        sums = node.emit(relax.op.add(sums, node.emit(bias)))
    scale = node.emit(relax.op.multiply(_flat(node, 1), _flat(node, 4)))
    real = relax.op.multiply(_as(node, sums, "float32"), node.emit(_channelwise(scale, 1, rank)))
    return quantised(node, node.emit(real), node.input(6), node.input(7), node.dtype(7))


def _flat(node: Node, position: int) -> Expr:
    return node.emit(reshaped(node.input(position), [int(np.prod(node.shape(position)))]))


@converts("QLinearMatMul")
@converts("QLinearMatMul", domain=MICROSOFT)
@converts_dynamic("QLinearMatMul")
@converts_dynamic("QLinearMatMul", domain=MICROSOFT)
def _qlinear_matmul(node: Node) -> Expr:
    rows_axis = max(node.rank(0) - 2, 0)
    if _grids_are_known(node, (1, 2), (4, 5), (6, 7)) and min(node.rank(0), node.rank(3)) >= 2:
        a = dequantised(node, 0, 1, 2, axis=rows_axis)
        b = dequantised(node, 3, 4, 5, axis=node.rank(3) - 1)
        y = node.emit(_product(node, a, b))
        return quantised(node, y, node.input(6), node.input(7), node.dtype(7), max(rank_of(y) - 2, 0))
    dtype = exact_type(_terms(node, 0, 3))
    a = centred(node, 0, 2, dtype, axis=rows_axis)
    b = centred(node, 3, 5, dtype, axis=node.rank(3) - 1)
    sums = node.emit(_product(node, a, b))
    rank = rank_of(sums)
    rows = node.emit(_channelwise(node.input(1), max(rank - 2, 0), rank))
    columns = node.emit(_channelwise(node.input(4), rank - 1, rank))
    real = relax.op.multiply(relax.op.multiply(_as(node, sums, "float32"), rows), columns)
    axis = max(rank - 2, 0)
    return quantised(node, node.emit(real), node.input(6), node.input(7), node.dtype(7), axis)


@converts("QLinearAdd", "QLinearMul", domain=MICROSOFT)
def _qlinear_binary(node: Node) -> Expr:
    a, b = dequantised(node, 0, 1, 2), dequantised(node, 3, 4, 5)
    real = node.emit((relax.op.add if node.op_type == "QLinearAdd" else relax.op.multiply)(a, b))
    zero = node.input(7) if node.has(7) else None
    return quantised(node, real, node.input(6), zero, node.dtype(0))


@converts("QLinearSigmoid", "QLinearLeakyRelu", domain=MICROSOFT)
def _qlinear_unary(node: Node) -> Expr:
    x = dequantised(node, 0, 1, 2)
    if node.op_type == "QLinearSigmoid":
        real = relax.op.sigmoid(x)
    else:
        real = relax.op.nn.leakyrelu(x, float(node.attrs.get("alpha", 0.01)))
    zero = node.input(4) if node.has(4) else None
    return quantised(node, node.emit(real), node.input(3), zero, node.dtype(0))


@converts("QLinearGlobalAveragePool", domain=MICROSOFT)
def _qlinear_global_average(node: Node) -> Expr:
    if node.attrs.get("channels_last", 0):
        raise CannotConvert("channels_last is not compiled")
    x = dequantised(node, 0, 1, 2)
    axes = list(range(2, node.rank(0)))
    real = node.emit(relax.op.mean(x, axis=axes, keepdims=True))
    return quantised(node, real, node.input(3), node.input(4), node.dtype(0))


@converts("QLinearConcat", domain=MICROSOFT)
def _qlinear_concat(node: Node) -> Expr:
    parts = [dequantised(node, i, i + 1, i + 2) for i in range(2, len(node.inputs), 3)]
    axis = axis_of(int(node.attrs.get("axis", 1)), rank_of(parts[0]))
    joined = node.emit(relax.op.concat(parts, axis))
    return quantised(node, joined, node.input(0), node.input(1), node.dtype(1))


@converts("DynamicQuantizeLinear")
def _dynamic_quantize(node: Node) -> list[Expr]:
    return to_bytes(node, node.input(0))


def to_bytes(node: Node, x: Expr) -> list[Expr]:
    """Real numbers as bytes on the grid of their own range, its scale (1 where all are zero) and its zero point."""
    zero = constant(0.0, "float32")
    high = relax.op.maximum(node.emit(relax.op.max(x)), zero)
    low = node.emit(relax.op.minimum(node.emit(relax.op.min(x)), zero))
    scale = node.emit(relax.op.divide(relax.op.subtract(high, low), constant(255.0, "float32")))
    safe = relax.op.where(relax.op.equal(scale, zero), constant(1.0, "float32"), scale)
    safe = node.emit(safe)
    raw = relax.op.round(relax.op.divide(relax.op.negative(low), safe))
    raw = relax.op.minimum(relax.op.maximum(raw, zero), constant(255.0, "float32"))
    point = node.emit(relax.op.astype(raw, "uint8"))
    return [quantised(node, x, safe, point, "uint8"), safe, point]
