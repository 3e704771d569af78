"""Cumulative sums and products."""

from __future__ import annotations

from tvm import relax

from edgec.compiler.frontends.relax.builder import Expr
from edgec.compiler.frontends.relax.converters.registry import (
    Node,
    axis_of,
    converts,
    converts_dynamic,
    dtype_of,
)
from edgec.compiler.frontends.relax.converters.sizes_at_run_time import viewed
from edgec.compiler.frontends.relax.dims import bound, dims_of, product
from edgec.compiler.kernels.cumulative import cumulative


@converts("CumSum", "CumProd")
@converts_dynamic("CumSum", "CumProd")
def _cumulative(node: Node) -> Expr:
    x, given = node.input(0), node.array(1)
    shape = dims_of(x)
    axis = axis_of(int(given.reshape(-1)[0]) if given is not None else 0, len(shape))
    flat = [
        bound(node.builder, product(part))
        for part in (shape[:axis], shape[axis : axis + 1], shape[axis + 1 :])
    ]
    symbol = node.builder.get_unique_name(node.op_type.lower())
    kernel = cumulative(
        symbol,
        flat,
        dtype_of(x),
        product=node.op_type == "CumProd",
        backwards=bool(node.attrs.get("reverse", 0)),
        exclusive=bool(node.attrs.get("exclusive", 0)),
    )
    function = node.builder.add_func(kernel, symbol)
    called = relax.call_tir(function, [viewed(node, x, flat)], relax.TensorType(flat, dtype_of(x)))
    return viewed(node, node.emit(called), shape)
