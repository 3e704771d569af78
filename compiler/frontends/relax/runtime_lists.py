"""Sequences whose length is known only when the model runs, by functions of the runtime."""

from __future__ import annotations

import tvm
from tvm import relax

from edgec.compiler.frontends.relax.builder import Expr
from edgec.compiler.frontends.relax.converters.registry import CannotConvert, Node, axis_of
from edgec.compiler.frontends.relax.dims import cast_to, fresh, loose, with_fresh_dims
from edgec.compiler.frontends.relax.lists import RuntimeList
from edgec.compiler.frontends.relax.parts import Argument

PREFIX = "edgec.sequence."


def called(node: Node, name: str, *arguments: Expr, kind: Expr) -> Expr:
    """A call of a function of the runtime."""
    return node.emit(relax.op.call_pure_packed(f"{PREFIX}{name}", *arguments, ty_args=kind))


def joined(node: Node, rows: RuntimeList, kind: Argument, axis: int, *, new: bool = True) -> Expr:
    """The tensors of a list joined along an axis, a new one or their own.

    Args:
        node: the node.
        rows: the list.
        kind: what is known of its tensors.
        axis: of the result.
        new: whether the axis is added.
    """
    if kind.sizes is None or rows.rank < 0:
        raise CannotConvert("the rank of the tensors in its sequence is unknown")
    rank = len(kind.sizes) + new
    axis = axis_of(axis, rank)
    sizes = [fresh("r") if one is None else one for one in kind.sizes]
    count = fresh("rows")
    if new:
        sizes.insert(axis, count)
    else:
        sizes[axis] = count
    # of a list without tensors, the sizes that are known
    empty = relax.ShapeExpr([one if isinstance(one, int) else 0 for one in _without(sizes, axis)])
    made = called(
        node, "join", rows.value, relax.prim_value(axis), relax.prim_value(int(new)), empty,
        tvm.ir.StringImm(rows.dtype), kind=loose(rank, rows.dtype),
    )  # fmt: skip
    return cast_to(node.builder, made, sizes, rows.dtype)


def _without(sizes: list[Expr], axis: int) -> list[Expr]:
    return [*sizes[:axis], 0, *sizes[axis + 1 :]]


def item(node: Node, rows: RuntimeList, place: Expr) -> Expr:
    """The tensor at a position."""
    if rows.rank < 0:
        raise CannotConvert("the rank of the tensors in its sequence is unknown")
    value = called(node, "at", rows.value, place, kind=loose(rows.rank, rows.dtype))
    return with_fresh_dims(node.builder, value, rows.rank, rows.dtype)
