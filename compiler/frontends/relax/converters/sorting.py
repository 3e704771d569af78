"""The largest or smallest elements, sorted, and the different elements or rows."""

from __future__ import annotations

from tvm import relax

from edgec.compiler.frontends.relax.amounts import amounts_of, read_amounts
from edgec.compiler.frontends.relax.builder import Expr
from edgec.compiler.frontends.relax.converters.registry import (
    CannotConvert,
    Node,
    axis_of,
    converts,
    converts_dynamic,
    dtype_of,
)
from edgec.compiler.frontends.relax.converters.selection import called
from edgec.compiler.frontends.relax.converters.sizes_at_run_time import viewed
from edgec.compiler.frontends.relax.dims import Dim, bound, dims_of, product
from edgec.compiler.kernels import dynamic
from edgec.compiler.kernels.distinct import described, grouped
from edgec.compiler.kernels.order import first_of_rows


@converts("TopK")
@converts_dynamic("TopK")
def _top_k(node: Node) -> list[Expr]:
    x = node.input(0)
    sizes = dims_of(x)
    wanted = amounts_of(node, "k", 1)
    if not wanted:
        raise CannotConvert("its number of elements is missing")
    if not sizes:
        raise CannotConvert("a single number has no axis to sort")
    axis, largest = axis_of(int(node.attrs.get("axis", -1)), len(sizes)), bool(node.attrs.get("largest", 1))
    count = bound(node.builder, wanted[0])
    length = sizes[axis]
    if isinstance(count, int) and isinstance(length, int) and not 0 <= count <= length:
        raise CannotConvert(f"{count} elements are wanted of an axis of {length}")
    outer, inner = (bound(node.builder, product(part)) for part in (sizes[:axis], sizes[axis + 1 :]))
    symbol = node.builder.get_unique_name("first")
    dtype = dtype_of(x)
    kernel = first_of_rows(symbol, [outer, length, inner], count, dtype, largest=largest)
    kinds = [relax.TensorType([outer, count, inner], one) for one in (dtype, "int64")]
    flat = viewed(node, x, [outer, length, inner])
    found = node.emit(relax.call_tir(node.builder.add_func(kernel, symbol), [flat], kinds))
    shape = [*sizes[:axis], count, *sizes[axis + 1 :]]
    return [viewed(node, node.emit(relax.TupleGetItem(found, i)), shape) for i in range(2)]


@converts_dynamic("Unique")
def _unique(node: Node) -> list[Expr]:
    x = node.input(0)
    sizes = dims_of(x)
    if dtype_of(x) == "bool":
        raise CannotConvert("different truth values are not compiled")
    if "axis" in node.attrs:
        axis = axis_of(int(node.attrs["axis"]), len(sizes))
        order = [axis, *(a for a in range(len(sizes)) if a != axis)]
        turned = node.emit(relax.op.permute_dims(x, order)) if axis else x
        width = bound(node.builder, product([s for i, s in enumerate(sizes) if i != axis]))
    else:
        x = viewed(node, x, [bound(node.builder, product(sizes))])
        sizes, axis, turned, width = dims_of(x), 0, x, 1
    size = sizes[axis]
    symbol = node.builder.get_unique_name("grouped")
    kernel = grouped(symbol, size, width, dtype_of(x))
    rows = viewed(node, turned, [size, width])
    found = node.emit(called(node, symbol, kernel, [rows], [([size], "int64"), ([1], "int64")]))
    (count,) = read_amounts(node.builder, node.emit(relax.TupleGetItem(found, 1)))
    symbol = node.builder.get_unique_name("described")
    kernel = described(symbol, size, count, ascending=bool(node.attrs.get("sorted", 1)))
    kinds: list[tuple[list[Dim], str]] = [([count], "int64"), ([size], "int64"), ([count], "int64")]
    told = node.emit(called(node, symbol, kernel, [node.emit(relax.TupleGetItem(found, 0))], kinds))
    first, inverse, counts = (node.emit(relax.TupleGetItem(told, i)) for i in range(3))
    return [node.builder.emit_te(dynamic.gathered, x, first, axis), first, inverse, counts]
