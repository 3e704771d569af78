"""Where the loop over the last axis of an element-wise kernel is cut, so that no part of it chooses.

A concatenation or a padding along the last axis chooses for each element what it reads, and a loop that chooses is not
made of vectors. Each comparison of the axis with constants has the same outcome between two of the cuts.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tvm_ffi
from tvm import tirx
from tvm.tirx import Stmt

from edgec.compiler.backends.cpu.templates.loop_nests import Expr
from edgec.compiler.graph.rewrite import Array

MOST = 12  # parts; each is code of its own
LEAST = 4  # elements a part has on average: shorter ones gain nothing

_COMPARISONS: dict[type, Callable[..., Any]] = {
    tirx.LT: operator.lt, tirx.LE: operator.le, tirx.GT: operator.gt, tirx.GE: operator.ge, tirx.EQ: operator.eq,
    tirx.NE: operator.ne,
}  # fmt: skip
_ARITHMETIC: dict[type, Callable[..., Any]] = {
    tirx.Add: operator.add, tirx.Sub: operator.sub, tirx.Mul: operator.mul, tirx.FloorDiv: operator.floordiv,
    tirx.FloorMod: operator.mod, tirx.Min: np.minimum, tirx.Max: np.maximum,
}  # fmt: skip


def cuts(body: Stmt, axis: Expr, extent: int) -> list[int]:
    """The places between 0 and `extent` at which a comparison of `axis` with constants changes its outcome.

    Returns:
        the places in order; none where there would be too many parts.
    """
    places = np.arange(extent)
    found: set[int] = set()

    def look(comparison: Expr) -> Expr:
        sides = [_values(side, axis, places) for side in (comparison.a, comparison.b)]
        if sides[0] is not None and sides[1] is not None:
            outcome = np.broadcast_to(_COMPARISONS[type(comparison)](*sides), places.shape)
            found.update((np.flatnonzero(outcome[1:] != outcome[:-1]) + 1).tolist())
        return comparison

    tvm_ffi.structural_map(body, [(tuple(_COMPARISONS), look)])
    return sorted(found) if len(found) < MOST and extent >= LEAST * (len(found) + 1) else []


def _values(expr: Expr, axis: Expr, places: Array) -> Array | None:
    """What `expr` is for each place along `axis`; None where it depends on anything else."""
    if isinstance(expr, tirx.IntImm):
        return np.asarray(int(expr.value))
    if expr.same_as(axis):
        return places
    made = _ARITHMETIC.get(type(expr))
    if made is None:
        return None
    sides: Sequence[Array | None] = [_values(side, axis, places) for side in (expr.a, expr.b)]
    return None if any(side is None for side in sides) else np.asarray(made(*sides))
