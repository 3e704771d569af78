"""Quantised arithmetic in integers: from `dequantize`, operators, `quantize` to integer operators (see `rewriter`)."""

import tvm

from edgec.compiler.graph.integer import (
    averages,
    choices,
    elementwise,
    moving,
    normalisation,
    products,
    resizing,
)
from edgec.compiler.graph.integer.rewriter import Rewriter, is_quantised

# Importing them fills the table of rules.
RULES = (averages, choices, elementwise, moving, normalisation, products, resizing)


def in_integers(mod: tvm.IRModule, entry: str = "main") -> tvm.IRModule:
    """The module with quantised arithmetic in integers; itself if it has none."""
    return Rewriter(mod, entry).run() if is_quantised(mod, entry) else mod


__all__ = ["in_integers"]
