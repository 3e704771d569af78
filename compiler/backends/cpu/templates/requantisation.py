"""Requantisation with the rounding and the conversion to an integer in one instruction.

The graph says `cast(min(max(round(x) + zero, low), high))`. Limits and zero point are whole numbers, so the same
comes of `convert(min(max(x, low - zero), high - zero)) + zero`, where `convert` rounds to the nearest, ties to even:
an instruction of x86 and two of ARM, in place of two and an addition.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import tvm
from tvm import tirx
from tvm.ir import Call

Expr: TypeAlias = tvm.ir.Expr

_LARGEST = 2.0**22  # of limits: floats hold whole numbers far beyond it
_CODES = ("int8", "uint8", "int16", "uint16", "int32")


@dataclass(frozen=True)
class _Limited:
    """Maxima and minima around a rounding: `value` after an addition of `zero`, in order from the inside."""

    value: Expr
    zero: float
    limits: tuple[tuple[type, float], ...]


def in_one_step(cast: tirx.Cast) -> Expr:
    """A cast of a rounded and limited value to integers; any other cast as it is."""
    if str(cast.ty.dtype) not in _CODES or str(cast.value.ty.dtype) != "float32":
        return cast
    found = _limited(cast.value)
    if found is None or {kind for kind, _ in found.limits} != {tirx.Max, tirx.Min}:
        return cast
    value = found.value
    for kind, limit in found.limits:
        value = kind(value, tirx.FloatImm("float32", limit - found.zero))
    code = tirx.call_llvm_pure_intrin("int32", "llvm.lrint", value)
    if found.zero:
        code = code + tirx.IntImm("int32", int(found.zero))
    dtype = str(cast.ty.dtype)
    return code if dtype == "int32" else code.astype(dtype)


def _limited(expr: Expr) -> _Limited | None:
    if isinstance(expr, tirx.Max | tirx.Min):
        inner, limit = _limited(expr.a), _whole(expr.b)
        if inner is None or limit is None:
            return None
        return _Limited(inner.value, inner.zero, (*inner.limits, (type(expr), limit)))
    if isinstance(expr, tirx.Add):
        inner, zero = _limited(expr.a), _whole(expr.b)
        if inner is None or zero is None or inner.limits or inner.zero:
            return None
        return _Limited(inner.value, zero, ())
    if isinstance(expr, Call) and str(getattr(expr.op, "name", "")) == "tirx.nearbyint":
        return _Limited(expr.args[0], 0.0, ())
    return None


def _whole(expr: Expr) -> float | None:
    """A constant that is a whole number."""
    if not isinstance(expr, tirx.FloatImm):
        return None
    value = float(expr.value)
    return value if value.is_integer() and abs(value) <= _LARGEST else None
