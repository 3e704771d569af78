"""Gather and scatter: elements read and written by index."""

from __future__ import annotations

import numpy as np
from tvm import relax
from tvm.tirx import PrimFunc

from edgec.compiler.frontends.relax.builder import Expr, constant
from edgec.compiler.frontends.relax.converters.registry import (
    CannotConvert,
    Node,
    axis_of,
    converts,
    converts_dynamic,
    dtype_of,
    is_constant,
    rank_of,
    reshaped,
    value_of,
)
from edgec.compiler.frontends.relax.converters.sizes_at_run_time import viewed, with_sizes
from edgec.compiler.frontends.relax.converters.slicing import sliced
from edgec.compiler.frontends.relax.dims import bound, dims_of, product
from edgec.compiler.kernels import dynamic
from edgec.compiler.kernels.scatter import REDUCTIONS, scattered_elements, scattered_slices


@converts("Gather")
def _gather(node: Node) -> Expr:
    shape = node.shape(0)
    axis = axis_of(int(node.attrs.get("axis", 0)), len(shape))
    indices = node.input(1)
    if is_constant(indices):
        rows = value_of(indices).astype("int64")
        if rows.size and (rows.min() < -shape[axis] or rows.max() >= shape[axis]):
            raise CannotConvert(f"an index is out of range for axis {axis} of size {shape[axis]}")
        rows = np.where(rows < 0, rows + shape[axis], rows)
        if rows.size == 1:
            out = [*shape[:axis], *rows.shape, *shape[axis + 1 :]]
            row = int(rows.reshape(-1)[0])
            part = node.emit(sliced(node, node.input(0), {axis: slice(row, row + 1, 1)}))
            return reshaped(part, out)
        indices = constant(rows)
    else:
        indices = _counted(node, indices, shape[axis])
    return relax.op.take(node.input(0), indices, axis=axis)


def _counted(node: Node, indices: Expr, size: int) -> Expr:
    """Indices from the front; one out of range is that of the last element, so that no other memory is read."""
    if is_constant(indices):
        given = value_of(indices).astype("int64")
        if given.size and (given.min() < -size or given.max() >= size):
            raise CannotConvert(f"an index is out of range for an axis of size {size}")
        return constant(np.where(given < 0, given + size, given))
    wide = node.emit(relax.op.astype(indices, "int64"))
    zero, last, count = (constant(n, "int64") for n in (0, size - 1, size))
    front = relax.op.where(relax.op.less(wide, zero), relax.op.add(wide, count), wide)
    return node.emit(relax.op.minimum(relax.op.maximum(node.emit(front), zero), last))


@converts("GatherElements")
def _gather_elements(node: Node) -> Expr:
    x, shape, own = node.input(0), node.shape(0), node.shape(1)
    axis = axis_of(int(node.attrs.get("axis", 0)), len(shape))
    cut = {a: slice(0, n) for a, n in enumerate(own) if a != axis and n < shape[a]}
    part = node.emit(sliced(node, x, cut)) if cut else x
    return relax.op.gather_elements(part, _counted(node, node.input(1), shape[axis]), axis=axis)


@converts_dynamic("GatherElements")
def _gather_elements_at_run_time(node: Node) -> Expr:
    x, indices = node.input(0), node.input(1)
    axis = axis_of(int(node.attrs.get("axis", 0)), len(dims_of(x)))
    return node.builder.emit_te(dynamic.gathered_elements, x, indices, axis)


@converts("ScatterElements", "Scatter")
@converts_dynamic("ScatterElements", "Scatter")
def _scatter_elements(node: Node) -> Expr:
    shape, places = dims_of(node.input(0)), dims_of(node.input(1))
    if 0 in places:  # nothing is written
        return node.input(0)
    axis, reduction = axis_of(int(node.attrs.get("axis", 0)), len(shape)), _reduction(node)
    symbol = node.builder.get_unique_name("scatter_elements")
    kinds = node.dtype(0), node.dtype(1)
    kernel = scattered_elements(symbol, shape, places, axis, kinds, reduction)
    updates = with_sizes(node, node.input(2), places)
    return _written(node, kernel, symbol, [node.input(0), node.input(1), updates])


@converts("ScatterND")
@converts_dynamic("ScatterND")
def _scatter_nd(node: Node) -> Expr:
    shape, places = dims_of(node.input(0)), dims_of(node.input(1))
    if 0 in places[:-1]:  # nothing is written
        return node.input(0)
    if not isinstance(places[-1], int):
        raise CannotConvert("how many axes its indices name is known only at run time")
    depth = places[-1]
    symbol = node.builder.get_unique_name("scatter_nd")
    count = bound(node.builder, product(places[:-1]))
    kinds = node.dtype(0), node.dtype(1)
    kernel = scattered_slices(symbol, shape, count, depth, kinds, _reduction(node))
    where = viewed(node, node.input(1), [count, depth])
    updates = with_sizes(node, node.input(2), [*places[:-1], *shape[depth:]])
    updates = viewed(node, updates, [count, *shape[depth:]])
    return _written(node, kernel, symbol, [node.input(0), where, updates])


def _reduction(node: Node) -> str:
    reduction = str(node.attrs.get("reduction", "none"))
    if reduction not in REDUCTIONS:
        raise CannotConvert(f"its reduction {reduction!r} is unknown")
    return reduction


def _written(node: Node, kernel: PrimFunc, symbol: str, arguments: list[Expr]) -> Expr:
    """A call of a function that writes updates to a tensor."""
    function = node.builder.add_func(kernel, symbol)
    kind = relax.TensorType(dims_of(arguments[0]), dtype_of(arguments[0]))
    return relax.call_tir(function, [node.emit(one) for one in arguments], kind)


@converts("ReverseSequence")
def _reverse_sequence(node: Node) -> Expr:
    batch, time = int(node.attrs.get("batch_axis", 1)), int(node.attrs.get("time_axis", 0))
    return relax.op.reverse_sequence(node.input(0), node.input(1), seq_axis=time, batch_axis=batch)


@converts("TensorScatter")
@converts_dynamic("TensorScatter")
def _tensor_scatter(node: Node) -> Expr:
    """New keys and values written into a cache, from an index on that each batch has of its own."""
    past, update = node.input(0), node.input(1)
    axis = axis_of(int(node.attrs.get("axis", -2)), len(dims_of(past)))
    around = str(node.attrs.get("mode", "linear")) == "circular"
    first = [node.input(2)] if node.has(2) else []
    return node.builder.emit_te(dynamic.tensor_scattered, past, update, axis, around, *first)


@converts("OneHot")
@converts_dynamic("OneHot")
def _one_hot(node: Node) -> Expr:
    depth_value, values = node.array(1), node.input(2)
    if depth_value is None:
        raise CannotConvert("its depth is missing")
    depth = int(depth_value.reshape(-1)[0])
    indices = node.input(0)
    rank = rank_of(indices) + 1
    axis = axis_of(int(node.attrs.get("axis", -1)), rank)
    shape = dims_of(indices)
    shape.insert(axis, 1)
    spread = [1] * rank
    spread[axis] = depth
    wide = node.emit(relax.op.astype(indices, "int64"))
    size = constant(depth, "int64")
    wide = relax.op.where(relax.op.less(wide, constant(0, "int64")), relax.op.add(wide, size), wide)
    classes = constant(np.arange(depth, dtype="int64").reshape(spread))
    hit = node.emit(relax.op.equal(viewed(node, node.emit(wide), shape), classes))
    off, on = (_element(node, values, i) for i in (0, 1))
    return relax.op.where(hit, on, off)


def _element(node: Node, vector: Expr, position: int) -> Expr:
    if is_constant(vector):
        return constant(value_of(vector).reshape(-1)[position])
    return node.emit(reshaped(node.emit(sliced(node, vector, {0: slice(position, position + 1)})), []))
