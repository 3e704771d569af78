"""Matrix products with an epilogue, and determinants."""

from __future__ import annotations

import math

import numpy as np
from tvm import relax

from edgec.compiler.frontends.relax.builder import Expr, constant
from edgec.compiler.frontends.relax.converters.activations import activated
from edgec.compiler.frontends.relax.converters.registry import (
    MICROSOFT,
    CannotConvert,
    LeaveToTvm,
    Node,
    converts,
    converts_dynamic,
    dtype_of,
    rank_of,
    reshaped,
    scalar,
)
from edgec.compiler.frontends.relax.converters.sizes_at_run_time import viewed
from edgec.compiler.frontends.relax.converters.slicing import sliced
from edgec.compiler.frontends.relax.dims import bound, dims_of, product
from edgec.compiler.kernels.determinant import determinants
from edgec.compiler.kernels.inverse import inverses


@converts("MatMul", "Gemm")
def _of_nothing(node: Node) -> Expr:
    """Sums without a term are zero."""
    a, b = node.shape(0), node.shape(1)
    plain = node.op_type == "MatMul"
    if not a or not b or a[0 if node.attrs.get("transA", 0) else -1] != 0:
        raise LeaveToTvm
    if plain:
        head = np.broadcast_shapes(a[:-2], b[:-2])
        shape = [*head, *(a[-2:-1] if len(a) > 1 else ()), *(b[-1:] if len(b) > 1 else ())]
        return constant(np.zeros(shape, node.dtype(0)))
    rows, columns = a[1 if node.attrs.get("transA", 0) else 0], b[0 if node.attrs.get("transB", 0) else 1]
    zeros = constant(np.zeros((rows, columns), node.dtype(0)))
    if not node.has(2):
        return zeros
    beta = scalar(float(node.attrs.get("beta", 1.0)), node.input(2))
    return relax.op.add(zeros, node.emit(relax.op.multiply(node.input(2), beta)))


@converts("FusedGemm", domain=MICROSOFT)
def _fused_gemm(node: Node) -> Expr:
    a, b = node.input(0), node.input(1)
    a = node.emit(relax.op.permute_dims(a, [1, 0])) if node.attrs.get("transA", 0) else a
    b = node.emit(relax.op.permute_dims(b, [1, 0])) if node.attrs.get("transB", 0) else b
    y = relax.op.multiply(relax.op.matmul(a, b), constant(float(node.attrs.get("alpha", 1.0)), "float32"))
    if node.has(2):
        beta = constant(float(node.attrs.get("beta", 1.0)), "float32")
        y = relax.op.add(y, relax.op.multiply(node.input(2), beta))
    alpha = node.attrs.get("activation_alpha")
    return activated(node, node.emit(y), str(node.attrs.get("activation", "")), alpha and [alpha])


@converts("FusedMatMul", domain=MICROSOFT)
def _fused_matmul(node: Node) -> Expr:
    a, b = node.input(0), node.input(1)
    if node.attrs.get("transBatchA", 0) or node.attrs.get("transBatchB", 0):
        raise CannotConvert("transposed batch axes are not compiled")
    a = node.emit(_swapped(a)) if node.attrs.get("transA", 0) else a
    b = node.emit(_swapped(b)) if node.attrs.get("transB", 0) else b
    return relax.op.multiply(relax.op.matmul(a, b), scalar(float(node.attrs.get("alpha", 1.0)), a))


def _swapped(x: Expr) -> Expr:
    axes = list(range(rank_of(x)))
    axes[-2:] = axes[:-3:-1]
    return relax.op.permute_dims(x, axes)


@converts("Inverse", domain=MICROSOFT)
@converts_dynamic("Inverse", domain=MICROSOFT)
def _inverse(node: Node) -> Expr:
    x, kind = node.input(0), dtype_of(node.input(0))
    shape = dims_of(x)
    if not isinstance(shape[-1], int) or shape[-1] != shape[-2]:
        raise CannotConvert("only square matrices of a known size are inverted")
    wide = kind if kind == "float64" else "float32"
    data = x if kind == wide else node.emit(relax.op.astype(x, wide))
    flat = [bound(node.builder, product(shape[:-2])), shape[-1], shape[-1]]
    symbol = node.builder.get_unique_name("inverse")
    function = node.builder.add_func(inverses(symbol, flat[0], shape[-1], wide), symbol)
    made = node.emit(relax.call_tir(function, [viewed(node, data, flat)], relax.TensorType(flat, wide)))
    made = viewed(node, made, shape)
    return made if kind == wide else relax.op.astype(made, kind)


@converts("Det")
def _det(node: Node) -> Expr:
    shape = node.shape(0)
    size = shape[-1]
    if size > 3:
        symbol, count = node.builder.get_unique_name("determinant"), math.prod(shape[:-2])
        function = node.builder.add_func(determinants(symbol, count, size, node.dtype(0)), symbol)
        flat = node.emit(reshaped(node.input(0), [count, size, size]))
        called = node.emit(relax.call_tir(function, [flat], relax.TensorType((count,), node.dtype(0))))
        return reshaped(called, shape[:-2])

    def entry(row: int, column: int) -> Expr:
        rank = len(shape)
        picks = {rank - 2: slice(row, row + 1), rank - 1: slice(column, column + 1)}
        part = node.emit(sliced(node, node.input(0), picks))
        return node.emit(reshaped(part, shape[:-2]))

    def minor(rows: list[int], columns: list[int]) -> Expr:
        if len(rows) == 1:
            return entry(rows[0], columns[0])
        total: Expr | None = None
        for position, column in enumerate(columns):
            rest = minor(rows[1:], [c for c in columns if c != column])
            term = node.emit(relax.op.multiply(entry(rows[0], column), rest))
            if total is None:
                total = term
            else:
                total = node.emit((relax.op.subtract if position % 2 else relax.op.add)(total, term))
        return total

    return minor(list(range(size)), list(range(size)))
