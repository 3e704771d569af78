"""Operators that return their input."""

from __future__ import annotations

from tvm import relax

from edgec.compiler.frontends.relax.builder import Expr, constant
from edgec.compiler.frontends.relax.converters.registry import Node, converts


@converts("Identity", "Dropout")
def _identity(node: Node) -> Expr | list[Expr]:
    x = node.input(0)
    if node.op_type == "Dropout" and len(node.outputs) > 1 and node.outputs[1]:
        return [x, relax.op.full(node.shape(0), constant(True, "bool"), "bool")]
    return x
