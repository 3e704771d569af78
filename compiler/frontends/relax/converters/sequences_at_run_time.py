"""Sequences whose length, or a position in them, is known only at run time."""

from __future__ import annotations

from tvm import relax

from edgec.compiler.frontends.relax.builder import Expr, constant
from edgec.compiler.frontends.relax.converters.registry import (
    CannotConvert,
    Node,
    axis_of,
    converts_dynamic,
    dtype_of,
    rank_of,
)
from edgec.compiler.frontends.relax.dims import dims_of
from edgec.compiler.frontends.relax.lists import RuntimeList, TensorList
from edgec.compiler.frontends.relax.parts import Argument, Value, runtime_list
from edgec.compiler.frontends.relax.runtime_lists import called, item, joined


def list_of(node: Node, position: int = 0) -> RuntimeList:
    """The input at a position as an object of the run."""
    value = node.input(position)
    if not isinstance(value, RuntimeList | TensorList):
        raise CannotConvert(f"its input {position} is no sequence")
    return runtime_list(node.builder, value)


def _place(node: Node, position: int) -> list[Expr]:
    return [node.input(position)] if node.has(position) else []


@converts_dynamic("SequenceAt")
def _at(node: Node) -> Expr:
    return item(node, list_of(node), node.input(1))


@converts_dynamic("SequenceInsert")
def _insert(node: Node) -> RuntimeList:
    rows, tensor = list_of(node), node.input(1)
    rank = rank_of(tensor)
    if rows.rank not in (-1, rank):
        raise CannotConvert("the tensors of its sequence have different ranks")
    made = called(node, "insert", rows.value, tensor, *_place(node, 2), kind=relax.AnyType())
    return RuntimeList(made, dtype_of(tensor), rank)


@converts_dynamic("SequenceErase")
def _erase(node: Node) -> RuntimeList:
    rows = list_of(node)
    made = called(node, "erase", rows.value, *_place(node, 1), kind=relax.AnyType())
    return RuntimeList(made, rows.dtype, rows.rank)


@converts_dynamic("SequenceLength")
def _length(node: Node) -> Expr:
    return called(node, "length", list_of(node).value, kind=relax.TensorType((), "int64"))


@converts_dynamic("ConcatFromSequence")
def _concat(node: Node) -> Expr:
    rows = list_of(node)
    if rows.rank < 0:
        raise CannotConvert("nothing states the rank of the tensors in its sequence")
    kind = Argument(rows.dtype, (None,) * rows.rank)
    return joined(node, rows, kind, int(node.attrs["axis"]), new=bool(node.attrs.get("new_axis", 0)))


@converts_dynamic("SplitToSequence")
def _split(node: Node) -> RuntimeList:
    x = node.input(0)
    rank = len(dims_of(x))
    axis = axis_of(int(node.attrs.get("axis", 0)), rank)
    keeps = bool(node.attrs.get("keepdims", 1)) or node.has(1)
    sizes = node.input(1) if node.has(1) else constant(1, "int64")
    made = called(
        node, "split", x, sizes, relax.prim_value(axis), relax.prim_value(int(keeps)), kind=relax.AnyType()
    )
    return RuntimeList(made, dtype_of(x), rank if keeps else rank - 1)


@converts_dynamic("SequenceMap")
def _map(node: Node) -> list[Value]:
    raise CannotConvert("it maps over a sequence whose length is known only at run time")
