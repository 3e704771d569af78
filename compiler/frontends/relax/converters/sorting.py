"""The largest or smallest elements, sorted."""

from __future__ import annotations

import numpy as np
from tvm import relax

from edgec.compiler.frontends.relax.builder import Expr, constant
from edgec.compiler.frontends.relax.converters.registry import (
    CannotConvert,
    LeaveToTvm,
    Node,
    converts,
)


@converts("TopK")
def _top_k(node: Node) -> Expr | list[Expr]:
    """Unsigned 64-bit integers are sorted as signed ones minus 2^63, which keeps their order."""
    if node.dtype(0) != "uint64":
        raise LeaveToTvm
    count = node.array(1)
    if count is None:
        raise CannotConvert("its number of elements is missing")
    least = constant(np.array(-(1 << 63), "int64"))
    signed = node.emit(relax.op.bitwise_xor(node.emit(relax.op.astype(node.input(0), "int64")), least))
    axis, largest = int(node.attrs.get("axis", -1)), bool(node.attrs.get("largest", 1))
    found = node.emit(relax.op.topk(signed, int(count.reshape(-1)[0]), axis, "both", largest, "int64"))
    values = node.emit(relax.op.bitwise_xor(relax.TupleGetItem(found, 0), least))
    return [relax.op.astype(values, "uint64"), relax.TupleGetItem(found, 1)]
