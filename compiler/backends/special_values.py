"""Steps of the lowering pipeline: maxima and minima keep NaN, and no integer division traps.

TVM's `max(a, b)` becomes `a > b ? a : b`, which is `b` where either is NaN: the rectifier of NaN would be zero. Where
one operand is a constant it has to come first, which costs nothing; any other pair costs a comparison and a masked
operation. 64-bit ARM has instructions that keep NaN (`fmax`, `fmin`), which LLVM's `maximum` and `minimum` are; the
choice would be two.
TVM's simplifier moves constants to the right, so this runs after it.

Processors raise a signal when an integer is divided by zero, or the least one by -1. Here both are defined:

    a / 0 = 0, a mod 0 = 0, least / -1 = least (it wraps, as the negation does), a mod -1 = 0
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TypeAlias

import tvm
import tvm_ffi
from tvm import tirx
from tvm.tirx import PrimFunc, Var

Expr: TypeAlias = tvm.ir.Expr

_INTEGER = ("int", "uint")


def _dtype(expr: Expr) -> str:
    """The type of a value, with its lanes."""
    return str(expr.ty.dtype)


def _let(value: Expr, body: Callable[[Expr], Expr]) -> Expr:
    if isinstance(value, Var):
        return body(value)
    var = Var("v", _dtype(value))
    return tirx.Let(var, value, body(var))


def _constant(expr: Expr) -> float | int | None:
    """The number that all lanes of a value are, if it is known."""
    inner = expr.value if isinstance(expr, tirx.Broadcast) else expr
    if isinstance(inner, tirx.IntImm):
        return int(inner.value)
    return float(inner.value) if isinstance(inner, tirx.FloatImm) else None


def _like(value: float, other: Expr) -> Expr:
    """A constant in all lanes of another value."""
    scalar, _, lanes = _dtype(other).partition("x")
    single = tirx.const(value, scalar)
    return tirx.Broadcast(single, int(lanes)) if lanes else single


def _extreme(expr: tirx.Max | tirx.Min) -> Expr:
    if not _dtype(expr).startswith("float"):
        return expr
    kind = type(expr)
    if _constant(expr.a) is not None:
        return expr
    if _constant(expr.b) is not None:
        return kind(expr.b, expr.a)
    return _let(expr.b, lambda b: _marked(kind(b, expr.a), tirx.isnan(b)))


def _instruction(expr: tirx.Max | tirx.Min) -> Expr:
    """The maximum of floats as 64-bit ARM's instruction, which keeps NaN of either operand."""
    dtype = _dtype(expr)
    if not dtype.startswith("float"):
        return expr
    name = "llvm.maximum" if isinstance(expr, tirx.Max) else "llvm.minimum"
    return tirx.call_llvm_pure_intrin(dtype, name, expr.a, expr.b)


def _marked(value: Expr, nan: Expr) -> Expr:
    """A float value with all bits set, which is NaN, where `nan` holds.

    With a choice in place of the bits, LLVM merges both comparisons and drops the maximum: a max pool of 64 x 112 x 112
    took 122 µs instead of 81 (53 with NaN ignored; one core with AVX-512). The operand that is tested is not a
    reduction's accumulator, so that no step waits for the test of the one before.
    """
    dtype = _dtype(value)
    bits = tirx.reinterpret(dtype.replace("float", "int"), value)
    return tirx.reinterpret(dtype, bits | tirx.Select(nan, _like(-1, bits), _like(0, bits)))


def _without_nan(cast: tirx.Cast, *, chosen: bool) -> Expr:
    """A conversion to integers whose limits hold for NaN, too: what it makes may be an index.

    A constant limit is LLVM's operation that returns the operand that is no NaN, one instruction: as a choice it
    would need a name for the value, and TVM's analysis of names within names takes four times as long for each.
    """
    if not _dtype(cast).startswith(_INTEGER) or not _dtype(cast.value).startswith("float"):
        return cast

    def limited(expr: tirx.Max | tirx.Min) -> Expr:
        greater = isinstance(expr, tirx.Max)
        a, b = (expr.b, expr.a) if _constant(expr.a) is not None else (expr.a, expr.b)
        if not chosen and _constant(b) is not None and _dtype(a).startswith(("float32", "float64")):
            return tirx.call_llvm_pure_intrin(_dtype(a), "llvm.maxnum" if greater else "llvm.minnum", a, b)

        def choice(a: Expr, b: Expr) -> Expr:
            return tirx.Select(tirx.GT(a, b) if greater else tirx.LT(a, b), a, b)

        return _let(a, lambda a: _let(b, lambda b: choice(a, b)))

    value = tvm_ffi.structural_map(cast.value, [((tirx.Max, tirx.Min), limited)])
    return tirx.Cast(_dtype(cast), value)


def _safe(b: Expr, *, signed: bool) -> Expr:
    """A divisor with 1 in the place of what traps."""
    traps = tirx.EQ(b, _like(0, b))
    if signed:
        traps = tirx.Or(traps, tirx.EQ(b, _like(-1, b)))
    return tirx.Select(traps, _like(1, b), b)


def _quotient(expr: tirx.Div | tirx.FloorDiv) -> Expr:
    kind, signed = type(expr), _dtype(expr).startswith("int")
    if not _dtype(expr).startswith(_INTEGER) or _constant(expr.b) not in (None, 0, -1):
        return expr

    def of(a: Expr, b: Expr) -> Expr:
        dividend = a
        if signed:
            dividend = tirx.Select(tirx.EQ(b, _like(-1, b)), tirx.Sub(_like(0, a), a), dividend)
        return kind(tirx.Select(tirx.EQ(b, _like(0, b)), _like(0, a), dividend), _safe(b, signed=signed))

    return _let(expr.a, lambda a: _let(expr.b, lambda b: of(a, b)))


def _remainder(expr: tirx.Mod | tirx.FloorMod) -> Expr:
    kind, signed = type(expr), _dtype(expr).startswith("int")
    if not _dtype(expr).startswith(_INTEGER) or _constant(expr.b) not in (None, 0, -1):
        return expr
    return _let(expr.b, lambda b: kind(expr.a, _safe(b, signed=signed)))


def _chosen_extreme(expr: tirx.Max | tirx.Min) -> Expr:
    """The maximum as a choice, for compilers whose `max` returns the operand that is no NaN (CUDA, OpenCL).

    It compares by `<=` and `>=` alone: TVM writes no other comparison of vectors of half precision for CUDA.
    """
    if not _dtype(expr).startswith("float"):
        return expr
    greater = isinstance(expr, tirx.Max)
    reaches = tirx.LE if greater else tirx.GE  # comparisons that are false where an operand is NaN
    a, b = (expr.b, expr.a) if _constant(expr.a) is not None else (expr.a, expr.b)

    def choice(a: Expr, b: Expr) -> Expr:
        chosen = tirx.Select(reaches(a, b), b, a)  # a where either is NaN
        if _constant(b) is not None:
            return chosen
        limit = _like(math.inf if greater else -math.inf, b)
        return tirx.Select(reaches(b, limit), chosen, b)

    return _let(a, lambda a: choice(a, b) if _constant(b) is not None else _let(b, lambda b: choice(a, b)))


def _for_arm(func: PrimFunc) -> bool:
    """Whether a kernel is compiled for 64-bit ARM."""
    target = func.attrs.get("target") if func.attrs is not None else None
    return target is not None and str(target.attrs.get("mtriple", "")).startswith("aarch64")


def exact_special_values(func: PrimFunc, *, chosen: bool = False) -> PrimFunc:
    """`func` with NaN kept by maxima and minima, and divisions of integers that cannot trap.

    Requires: the simplifier ran for the last time.

    Args:
        func: a lowered kernel.
        chosen: write maxima and minima as choices: the code generator's own do not have LLVM's order of operands.
    """
    body = tvm_ffi.structural_map(func.body, [(tirx.Cast, lambda cast: _without_nan(cast, chosen=chosen))])
    extreme = _chosen_extreme if chosen else _instruction if _for_arm(func) else _extreme
    rules = [
        ((tirx.Max, tirx.Min), extreme),
        ((tirx.Div, tirx.FloorDiv), _quotient),
        ((tirx.Mod, tirx.FloorMod), _remainder),
    ]
    return func.with_body(tvm_ffi.structural_map(body, rules))


@tirx.transform.prim_func_pass(opt_level=0, name="edgec.ExactSpecialValues")  # type: ignore[untyped-decorator]
def _exact_special_values(func: PrimFunc, _mod: tvm.IRModule, _ctx: tvm.transform.PassContext) -> PrimFunc:
    return exact_special_values(func)


@tirx.transform.prim_func_pass(opt_level=0, name="edgec.ChosenSpecialValues")  # type: ignore[untyped-decorator]
def _chosen_special_values(func: PrimFunc, _mod: tvm.IRModule, _ctx: tvm.transform.PassContext) -> PrimFunc:
    return exact_special_values(func, chosen=True)


def exact_special_values_pass(*, chosen: bool = False) -> tvm.transform.Pass:
    """`exact_special_values` for every kernel of a module."""
    return _chosen_special_values if chosen else _exact_special_values
