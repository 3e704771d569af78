"""Which element types a module computes with."""

from __future__ import annotations

import re
from collections.abc import Iterable

import tvm
from tvm import relax
from tvm.tirx import PrimFunc

_HALVES = re.compile(r"\bb?float16")


def half_types(mods: Iterable[tvm.IRModule]) -> frozenset[str]:
    """The 16-bit floating-point types, `float16` and `bfloat16`, of all values in modules of Relax."""
    found = set[str]()

    def look(expr: tvm.ir.RelaxExpr) -> None:
        _add(getattr(expr, "ty", None), found)

    for mod in mods:
        for function in mod.functions.values():
            if isinstance(function, PrimFunc):
                found |= set(_HALVES.findall(function.script()))
            elif isinstance(function, relax.Function):
                for param in function.params:
                    look(param)
                relax.analysis.post_order_visit(function, look)
    return frozenset(found)


def _add(kind: object, found: set[str]) -> None:
    if isinstance(kind, relax.TupleType):
        for field in kind.fields:
            _add(field, found)
    elif isinstance(kind, relax.TensorType):
        found |= set(_HALVES.findall(str(kind.dtype)))
