"""Products with the number zero and quotients of it keep NaN and infinities.

TVM folds `x * 0` and `0 / x` to 0 where the zero is a number in the kernel's code, and refuses `x / 0`; a zero that
is read from memory stays.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import tvm
from tvm import topi
from tvm.ir import Call, GenericConst

from edgec.compiler.graph.rewrite import Expr, dtype_of, shape_of

Legalise = Callable[[tvm.relax.BlockBuilder, Call], Expr]
FUNCTIONS = {"relax.multiply": topi.multiply, "relax.divide": topi.divide}


def legalisations() -> dict[str, Legalise]:
    """How products and quotients become kernels, by operator; for `relax.transform.LegalizeOps`."""
    return {name: _legalisation(name, function) for name, function in FUNCTIONS.items()}


def _legalisation(name: str, function: Callable[[Expr, Expr], Expr]) -> Legalise:
    plain: Legalise = tvm.ir.Op.get(name).get_attr("FLegalize")

    def legalise(builder: tvm.relax.BlockBuilder, call: Call) -> Expr:
        operands = [_in_memory(operand) if _is_zero(operand) else operand for operand in call.args]
        if all(new.same_as(old) for new, old in zip(operands, call.args, strict=True)):
            return plain(builder, call)
        if shape_of(call):
            return builder.call_te(function, *operands)
        vector = builder.emit(builder.call_te(function, *operands))
        return builder.call_te(topi.reshape, vector, ())

    return legalise


def _is_zero(expr: Expr) -> bool:
    scalar = isinstance(expr, GenericConst) and not shape_of(expr) and dtype_of(expr).startswith("float")
    return scalar and not float(expr.value.numpy())


def _in_memory(zero: Expr) -> Expr:
    return tvm.relax.const(np.full(1, zero.value.numpy()[()]), dtype_of(zero))
