"""Cumulative sums and products."""

from __future__ import annotations

import math

from tvm import relax

from edgec.compiler.frontends.relax.builder import Expr
from edgec.compiler.frontends.relax.converters.registry import (
    Node,
    axis_of,
    converts,
    dtype_of,
    reshaped,
)
from edgec.compiler.kernels.cumulative import cumulative


@converts("CumSum", "CumProd")
def _cumulative(node: Node) -> Expr:
    x, shape, given = node.input(0), node.shape(0), node.array(1)
    axis = axis_of(int(given.reshape(-1)[0]) if given is not None else 0, len(shape))
    outer, inner = math.prod(shape[:axis]), math.prod(shape[axis + 1 :])
    symbol = node.builder.get_unique_name(node.op_type.lower())
    kernel = cumulative(
        symbol,
        (outer, shape[axis], inner),
        dtype_of(x),
        product=node.op_type == "CumProd",
        backwards=bool(node.attrs.get("reverse", 0)),
        exclusive=bool(node.attrs.get("exclusive", 0)),
    )
    flat = node.emit(reshaped(x, [outer, shape[axis], inner]))
    out = relax.TensorType((outer, shape[axis], inner), dtype_of(x))
    called = relax.call_tir(node.builder.add_func(kernel, symbol), [flat], out)
    return reshaped(node.emit(called), shape)
