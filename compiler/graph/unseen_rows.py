"""Rows of an attention that see no key: how the operator `Attention` of the standard finds them in its mask.

Its definition replaces their weights by zeros: `where(max(mask, last axis) = -inf, 0, softmax(scores + mask))`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import tvm
import tvm_ffi
from tvm import relax
from tvm.ir import Call

from edgec.compiler.graph.rewrite import Expr, array_of, is_tensor, op_name, shape_of
from edgec.compiler.kernels.extremes import extremes


def never(condition: Expr) -> bool:
    """Whether truth values are all false, at compile time."""
    array = array_of(condition)
    return array is not None and not array.any()


def found_in(condition: Expr, mask: Expr, values: Mapping[relax.Var, Expr], mod: tvm.IRModule) -> bool:
    """Whether `condition` is true for just the rows in which all of `mask` is -inf.

    Args:
        condition: truth values, one a row.
        mask: what is added to the scores.
        values: what variables are bound to.
        mod: its functions.
    """
    given, added = array_of(condition), array_of(mask)
    if given is not None and added is not None:
        wanted = added.max(axis=-1, keepdims=True) == -math.inf
        return wanted.shape == given.shape and bool((wanted == given).all())
    equal = values.get(condition) if isinstance(condition, relax.Var) else None
    if equal is None or op_name(equal) != "equal":
        return False
    for top, lowest in ((0, 1), (1, 0)):
        number = array_of(equal.args[lowest])
        if number is not None and number.size and bool((number == -math.inf).all()):
            made = equal.args[top]
            call = values.get(made) if isinstance(made, relax.Var) else None
            return (
                isinstance(call, Call) and shape_of(equal) == shape_of(made) and _is_maximum(call, mask, mod)
            )
    return False


def _is_maximum(call: Call, mask: Expr, mod: tvm.IRModule) -> bool:
    """Whether `call` takes the maximum of `mask` over its last axis, which stays with extent 1."""
    if op_name(call) != "call_tir" or not is_tensor(mask):
        return False
    operands = call.args[1].fields
    if len(operands) != 1 or not operands[0].same_as(mask):
        return False
    builder = relax.BlockBuilder()
    x = relax.Var("x", mask.ty)
    with builder.function("main", [x]):
        axes = [len(shape_of(mask)) - 1]
        builder.emit_func_output(builder.emit_te(extremes, x, axes, keepdims=True, largest=True))
    wanted = next(f for gv, f in builder.get().functions.items() if gv.name_hint != "main")
    return bool(tvm_ffi.structural_equal(wanted, mod[call.args[0]]))
