"""The larger, the smaller or the chosen of two tensors, on one grid for both, and what a tensor's sign decides."""

from __future__ import annotations

import numpy as np
from tvm import relax
from tvm.ir import Call

from edgec.compiler.graph.integer import requantise
from edgec.compiler.graph.integer.requantise import INT32
from edgec.compiler.graph.integer.rewriter import Rewriter, rule
from edgec.compiler.graph.integer.values import STORED, Coded, Linear, Term, Value, linear_of
from edgec.compiler.graph.rewrite import Array, Expr, constant, dtype_of

NOTHING = np.zeros(())
STEPS = 2.0**15  # in which the range of sums is thought to be divided
MOST_BITS = 22  # by which a unit is finer than the finest grid


def on_one_grid(r: Rewriter, values: list[Value | None]) -> tuple[list[Expr], Array, float] | None:
    """Values as int32 numbers of one unit, so fine that nothing shows at their own steps.

    Returns:
        the integers, the unit, and the largest magnitude; None where no unit is fine enough, or limits apply.
    """
    linears = [linear_of(value) for value in values]
    known = [linear for linear in linears if linear is not None]
    terms = tuple(term for linear in known for term in linear.terms)
    if len(known) < len(values) or not terms or any(one.limited or one.offset.size > 1 for one in known):
        return None
    finest = min(abs(float(term.factor.reshape(-1)[0])) for term in terms)
    if any(term.factor.size > 1 for term in terms) or not 0 < finest < np.inf:
        return None
    step = np.asarray(min(abs(float(t.factor.reshape(()))) * max(1.0, t.most / STEPS) for t in terms))
    best: tuple[float, Array, float, list[requantise.Common]] | None = None
    for bits in range(MOST_BITS + 1):
        unit = np.asarray(finest * 2.0**-bits)
        parts = [requantise.in_units(one, unit, "int32") for one in known]
        pairs = list(zip(known, parts, strict=True))
        most = max(requantise.largest_sum(one.terms, made) for one, made in pairs)
        if most > INT32:
            break
        error = max(requantise.error_of(one, made, step) for one, made in pairs)
        best = (error, unit, most, parts) if best is None or error < best[0] else best
        if error <= requantise.SMALL:
            break
    if best is None or best[0] > requantise.MOST_ERROR:
        return None
    _, unit, most, parts = best
    return [_sums(r, one, made) for one, made in zip(known, parts, strict=True)], unit, most


def _sums(r: Rewriter, linear: Linear, made: requantise.Common) -> Expr:
    return r.sums(linear, made) if linear.terms else constant(made.constant.reshape(()).astype(np.int32))


def extreme(r: Rewriter, name: str, values: list[Value | None]) -> Linear | None:
    """The larger or smaller of two tensors on different grids."""
    made = on_one_grid(r, values)
    if made is None:
        return None
    sides, unit, most = made
    operator = relax.op.maximum if name == "maximum" else relax.op.minimum
    return Linear((Term(r.emit(operator(*sides)), np.zeros((), np.int64), unit, most),), NOTHING)


def chosen(r: Rewriter, condition: Expr, values: list[Value | None]) -> Linear | None:
    """One of two tensors by a condition."""
    made = on_one_grid(r, values)
    if made is None:
        return None
    sides, unit, most = made
    picked = r.emit(relax.op.where(r.plain(condition), *sides))
    return Linear((Term(picked, np.zeros((), np.int64), unit, most),), NOTHING)


def absolute(r: Rewriter, linear: Linear) -> Linear | None:
    """The magnitude of sums."""
    if len(linear.terms) != 1 or linear.limited or linear.offset.any():
        return None
    term = linear.terms[0]
    most = term.most + float(np.abs(term.shift).max())
    if most > INT32 or dtype_of(term.data) == "int64":
        return None
    data = r.widened(term.data, "int32")
    if term.shift.any():
        data = r.emit(relax.op.add(data, constant(term.shift.astype(np.int32))))
    data = r.emit(relax.op.abs(data))
    return Linear((Term(data, np.zeros((), np.int64), np.abs(term.factor), most, term.count),), NOTHING)


@rule("nn.prelu")
def _prelu(r: Rewriter, call: Call) -> Value | None:
    """Two terms, of which one is zero: what is above the zero point, and what is below, times the slope."""
    value, slope = r.value(call.args[0]), r.array(call.args[1])
    if not isinstance(value, Coded) or slope is None or not value.per_tensor or value.array is not None:
        return None
    if value.dtype not in STORED:
        return None
    rank, axis = int(call.ty.ndim), int(call.attrs.axis)
    along = (
        slope.reshape(())
        if slope.size == 1
        else slope.reshape([-1 if i == axis % rank else 1 for i in range(rank)])
    )
    wide, zero = r.widened(value.data, "int32"), value.zero.reshape(())
    if zero:
        wide = r.emit(relax.op.subtract(wide, constant(zero.astype(np.int32))))
    nought = constant(np.zeros((), np.int32))
    most, scale = float(2 * (1 << (8 * np.dtype(value.dtype).itemsize))), value.scale.reshape(())
    above, below = (r.emit(operator(wide, nought)) for operator in (relax.op.maximum, relax.op.minimum))
    none = np.zeros((), np.int64)
    return Linear((Term(above, none, scale, most), Term(below, none, scale * along, most)), NOTHING)
