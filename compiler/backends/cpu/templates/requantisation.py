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
    """A cast of a rounded and limited value to integers; any other cast as it is.

    Of one to `uint8` and from there to `int16`, in which activations may be kept, the second one alone is left.
    """
    dtype, inner, found = str(cast.ty.dtype), cast.value, None
    if dtype == "int16" and isinstance(inner, tirx.Cast) and str(inner.ty.dtype) == "uint8":
        byte = _limited(inner.value)
        if byte is not None and all(0 <= limit <= 255 for _, limit in byte.limits):
            found = byte
    else:
        found = _limited(inner)
    made = None if found is None else _converted(found, dtype)
    return cast if made is None else made


def _converted(found: _Limited, dtype: str) -> Expr | None:
    """The integer; None where it may not fit, or comes from no rounding."""
    if dtype not in _CODES or {kind for kind, _ in found.limits} != {tirx.Max, tirx.Min}:
        return None
    value = found.value
    for kind, limit in found.limits:
        value = kind(value, tirx.FloatImm("float32", limit - found.zero))
    code = tirx.call_llvm_pure_intrin("int32", "llvm.lrint", value)
    if found.zero:
        code = code + tirx.IntImm("int32", int(found.zero))
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
    if str(expr.ty.dtype) != "float32":
        return None
    if isinstance(expr, Call) and str(getattr(expr.op, "name", "")) == "tirx.nearbyint":
        return _Limited(expr.args[0], 0.0, ())
    return None


def _whole(expr: Expr) -> float | None:
    """A constant that is a whole number."""
    if not isinstance(expr, tirx.FloatImm):
        return None
    value = float(expr.value)
    return value if value.is_integer() and abs(value) <= _LARGEST else None
