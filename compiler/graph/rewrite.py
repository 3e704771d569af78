"""Small tools with which the passes take Relax expressions apart and put them together again."""

from __future__ import annotations

from collections.abc import Callable

import tvm
from tvm import relax
from tvm.ir import Call, GenericConst, Tuple, TupleGetItem

Expr = tvm.ir.Expr


def map_leaves(expr: Expr, replace: Callable[[Expr], Expr]) -> Expr:
    """`expr` with `replace` applied to each variable and constant in it (calls, tuples and projections deep)."""
    if isinstance(expr, GenericConst | relax.Var):
        return replace(expr)
    if isinstance(expr, Tuple):
        return relax.Tuple([map_leaves(field, replace) for field in expr.fields])
    if isinstance(expr, TupleGetItem):
        return relax.TupleGetItem(map_leaves(expr.tuple_value, replace), expr.index)
    if isinstance(expr, Call):
        args = [map_leaves(arg, replace) for arg in expr.args]
        return Call(expr.op, args, expr.attrs, expr.ty_args, ret_ty=expr.ty)
    return expr


def shape_of(expr: Expr) -> tuple[int, ...]:
    """The static shape of a tensor expression."""
    return tuple(int(dim) for dim in expr.ty.shape.values)


def dtype_of(expr: Expr) -> str:
    """The element type of a tensor expression, by numpy's name."""
    return str(expr.ty.dtype.dtype)


def op_name(expr: Expr) -> str:
    """``nn.conv2d`` for a call of ``relax.nn.conv2d``; empty for anything that is not a call of an operator."""
    if isinstance(expr, Call) and isinstance(expr.op, tvm.ir.Op):
        return str(expr.op.name).removeprefix("relax.")
    return ""
