"""NonZero and Compress: how many elements they keep is known when the model runs."""

from __future__ import annotations

from collections.abc import Sequence

from tvm import relax, tirx
from tvm.tirx import PrimFunc

from edgec.compiler.frontends.relax.amounts import as_tensor, read_amounts
from edgec.compiler.frontends.relax.builder import Expr
from edgec.compiler.frontends.relax.converters.registry import (
    CannotConvert,
    Node,
    axis_of,
    converts_dynamic,
    dtype_of,
)
from edgec.compiler.frontends.relax.converters.sizes_at_run_time import viewed
from edgec.compiler.frontends.relax.dims import Dim, bound, dims_of, product, size
from edgec.compiler.kernels import dynamic
from edgec.compiler.kernels.selection import count_nonzero, nonzero_places, set_places


@converts_dynamic("NonZero")
def _nonzero(node: Node) -> Expr:
    x = node.input(0)
    own, dtype = dims_of(x), dtype_of(x)
    (count,) = counted(node, x)
    if not own:  # a place in no axis has no coordinates
        return relax.op.full(relax.ShapeExpr([0, count]), as_tensor(node, [0], []), "int64")
    rows, width = bound(node.builder, product(own[:-1])), own[-1]
    symbol = node.builder.get_unique_name("nonzero")
    kernel = nonzero_places(symbol, rows, width, len(own), dtype, count)
    flat, sizes = viewed(node, x, [rows, width]), as_tensor(node, own, [len(own)])
    return called(node, symbol, kernel, [flat, sizes], [([len(own), count], "int64")])


def counted(node: Node, x: Expr) -> list[Dim]:
    """How many elements of a tensor are not zero, as a size."""
    total = bound(node.builder, product(dims_of(x)))
    symbol = node.builder.get_unique_name("count")
    kernel = count_nonzero(symbol, total, dtype_of(x))
    return read_amounts(
        node.builder,
        node.emit(called(node, symbol, kernel, [viewed(node, x, [total])], [([1], "int64")])),
    )


def called(
    node: Node,
    symbol: str,
    kernel: PrimFunc,
    arguments: Sequence[Expr],
    results: Sequence[tuple[Sequence[Dim], str]],
) -> Expr:
    """A call of a kernel, whose results have these shapes and dtypes."""
    kinds = [relax.TensorType(list(shape), dtype) for shape, dtype in results]
    function = node.builder.add_func(kernel, symbol)
    return relax.call_tir(function, list(arguments), kinds[0] if len(kinds) == 1 else kinds)


@converts_dynamic("Compress")
def _compress(node: Node) -> Expr:
    """The rows along an axis, or elements, for which a condition holds; it may be shorter than the axis."""
    x, condition = node.input(0), node.input(1)
    sizes = dims_of(x)
    axis = 0
    if "axis" in node.attrs:
        axis = axis_of(int(node.attrs["axis"]), len(sizes))
    else:
        sizes = [bound(node.builder, product(sizes))]
        x = viewed(node, x, sizes)
    known = dims_of(condition)
    if len(known) != 1:
        raise CannotConvert("its condition is no vector")
    condition = _cut(node, condition, known[0], sizes[axis])
    (count,) = counted(node, condition)
    symbol = node.builder.get_unique_name("places")
    kernel = set_places(symbol, dims_of(condition)[0], count)
    places = node.emit(called(node, symbol, kernel, [condition], [([count], "int64")]))
    return node.builder.emit_te(dynamic.gathered, x, places, axis)


def _cut(node: Node, condition: Expr, length: Dim, limit: Dim) -> Expr:
    """As much of a condition as there are rows."""
    if isinstance(length, int) and isinstance(limit, int) and length <= limit:
        return condition
    if length is limit:
        return condition
    shorter = bound(node.builder, size(tirx.min(length, limit)))
    return node.builder.emit_te(dynamic.strided, condition, [0], [1], [shorter])
