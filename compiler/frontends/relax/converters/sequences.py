"""Sequences of tensors and optional values, resolved when the model is imported."""

from __future__ import annotations

import numpy as np
import onnx
from tvm import relax

from edgec.compiler.frontends.relax.builder import Expr, constant
from edgec.compiler.frontends.relax.converters.registry import (
    CannotConvert,
    Node,
    axis_of,
    converts,
    dtype_of,
    rank_of,
    reshaped,
    shape_of,
)
from edgec.compiler.frontends.relax.converters.slicing import sliced
from edgec.compiler.frontends.relax.lists import Absent, TensorList


def list_of(node: Node, position: int = 0) -> TensorList:
    """The input at a position as a list.

    Raises:
        CannotConvert: it is none.
    """
    value = node.input(position)
    if not isinstance(value, TensorList):
        raise CannotConvert(f"its input {position} is no sequence that is known when the model is compiled")
    return value


def _position(node: Node, at: int, count: int, *, past_end: bool = False) -> int | None:
    """The constant position that an input gives in a list of `count`; None where it is left out."""
    given = node.array(at)
    if given is None:
        return None
    place = int(given.reshape(-1)[0])
    if not -count <= place < count + past_end:
        raise CannotConvert(f"its position {place} is outside a sequence of {count}")
    return place % count if place < 0 else place


@converts("SequenceEmpty")
def _empty(node: Node) -> TensorList:
    kind = int(node.attrs.get("dtype", onnx.TensorProto.FLOAT))
    return TensorList((), str(onnx.helper.tensor_dtype_to_np_dtype(kind)))


@converts("SequenceConstruct")
def _construct(node: Node) -> TensorList:
    items = tuple(node.input(i) for i in range(len(node.inputs)))
    return TensorList(items, dtype_of(items[0]))


@converts("SequenceAt")
def _at(node: Node) -> Expr:
    items = list_of(node).items
    place = _position(node, 1, len(items))
    if place is None:
        raise CannotConvert("its position is missing")
    return items[place]


@converts("SequenceInsert")
def _insert(node: Node) -> TensorList:
    items, tensor = list(list_of(node).items), node.input(1)
    place = _position(node, 2, len(items), past_end=True)
    items.insert(len(items) if place is None else place, tensor)
    return TensorList(tuple(items), dtype_of(tensor))


@converts("SequenceErase")
def _erase(node: Node) -> TensorList:
    given = list_of(node)
    items = list(given.items)
    place = _position(node, 1, len(items))
    del items[-1 if place is None else place]
    return TensorList(tuple(items), given.dtype)


@converts("SequenceLength")
def _length(node: Node) -> Expr:
    """A scalar, as the standard says."""
    return constant(len(list_of(node).items), "int64")


@converts("SplitToSequence")
def _split(node: Node) -> TensorList:
    x, shape, sizes = node.input(0), node.shape(0), node.array(1)
    axis = axis_of(int(node.attrs.get("axis", 0)), len(shape))
    keeps = bool(node.attrs.get("keepdims", 1)) or sizes is not None
    if sizes is None:
        parts = [1] * shape[axis]
    elif sizes.ndim == 0:
        step = int(sizes)
        if step < 1:
            raise CannotConvert(f"its parts would have {step} elements")
        parts = [min(step, shape[axis] - start) for start in range(0, shape[axis], step)]
    else:
        parts = [int(size) for size in sizes]
    if sum(parts) != shape[axis]:
        raise CannotConvert(f"its parts {parts} do not add up to the size {shape[axis]} of axis {axis}")
    ends = [int(end) for end in np.cumsum(parts)]
    items = []
    for end, size in zip(ends, parts, strict=True):
        part = node.emit(sliced(node, x, {axis: slice(end - size, end)})) if size < shape[axis] else x
        rest = [*shape[:axis], *shape[axis + 1 :]]
        items.append(part if keeps else node.emit(reshaped(part, rest)))
    return TensorList(tuple(items), dtype_of(x))


@converts("ConcatFromSequence")
def _concat(node: Node) -> Expr:
    items, new = list(list_of(node).items), bool(node.attrs.get("new_axis", 0))
    if not items:
        raise CannotConvert("it joins an empty sequence, whose shape nothing states")
    rank = rank_of(items[0]) + new
    axis = axis_of(int(node.attrs["axis"]), rank)
    if new:
        items = [_with_axis(node, item, axis) for item in items]
    filled = [item for item in items if shape_of(item)[axis] > 0] or items[:1]
    return filled[0] if len(filled) == 1 else relax.op.concat(filled, axis)


def _with_axis(node: Node, x: Expr, axis: int) -> Expr:
    shape = list(shape_of(x))
    return node.emit(reshaped(x, [*shape[:axis], 1, *shape[axis:]]))


@converts("SequenceMap")
def _map(node: Node) -> list[TensorList]:
    lists = [node.input(i) for i in range(len(node.inputs))]
    count = len(list_of(node).items)
    rows: list[list[Expr]] = [[] for _ in node.outputs]
    for place in range(count):
        taken = [one.items[place] if isinstance(one, TensorList) else one for one in lists]
        for row, made in zip(rows, node.scope.graph(node.attrs["body"], taken), strict=True):
            row.append(made)
    return [TensorList(tuple(row), dtype_of(row[0]) if row else "float32") for row in rows]


@converts("Optional")
def _optional(node: Node) -> Expr | TensorList | Absent:
    return node.input(0) if node.has(0) else Absent()


@converts("OptionalHasElement")
def _has_element(node: Node) -> Expr:
    return constant(node.has(0) and not isinstance(node.input(0), Absent), "bool")


@converts("OptionalGetElement")
def _get_element(node: Node) -> Expr | TensorList:
    value = node.input(0)
    if isinstance(value, Absent):
        raise CannotConvert("it reads an optional value that has no element")
    return value
