"""Recognise layer normalisations that a model spells out in single operators.

Requires: static shapes, arithmetic on constants done.
Ensures: float32 arithmetic that normalises along the last axis, whether it divides by the root of the variance or
multiplies by its inverse, is a `layer_norm`, with the factors and the shift behind it that are constants of that axis;
where the mean is not subtracted, an `rms_norm`. Exporters of operator sets before 17 and TensorFlow Lite spell them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import tvm
from tvm import relax
from tvm.ir import Call

from edgec.compiler.graph.rewrite import (
    Array,
    Expr,
    Walker,
    array_of,
    constant,
    dtype_of,
    is_tensor,
    op_name,
    shape_of,
)
from edgec.compiler.graph.sources import merged_name


def name_layer_norms(mod: tvm.IRModule) -> tvm.IRModule:
    """Apply the pass (see the module's docstring)."""
    return _Norms(mod).run()


@dataclass(frozen=True)
class _Norm:
    """A normalisation: what it reads, its parameters, and the names of the values that it stands for."""

    data: Expr
    epsilon: float
    centred: bool
    factor: Array
    shift: Array | None
    names: tuple[str, ...]

    def call(self) -> Call:
        """The operator."""
        if not self.centred:
            return relax.op.nn.rms_norm(self.data, constant(self.factor), axes=[-1], epsilon=self.epsilon)
        shift = np.zeros_like(self.factor) if self.shift is None else self.shift
        return relax.op.nn.layer_norm(
            self.data, constant(self.factor), constant(shift), axes=[-1], epsilon=self.epsilon
        )


@dataclass(frozen=True)
class _Spread:
    """`sqrt(mean(x²) + ε)` of `data` (of its distances from the mean, where `mean` is set), or one over it."""

    data: Expr
    mean: Expr | None
    epsilon: float
    inverse: bool
    factor: Array | None = None
    names: tuple[str, ...] = ()


class _Norms(Walker):
    def __init__(self, mod: tvm.IRModule, entry: str = "main") -> None:
        super().__init__(mod, entry)
        self.calls: dict[Expr, Call] = {}  # by their new variable
        self.norms: dict[Expr, _Norm] = {}  # by the new variable
        self.single: set[Expr] = set()  # new variables that are read once

    def bind(self, var: relax.Var, value: Expr) -> None:
        """Give the old variable `var` its new value."""
        norm = self._norm(value) if isinstance(value, Call) and is_tensor(value) else None
        if norm is not None:
            own, self.name = self.name, merged_name([*norm.names, self.name])
            self.renamed[var] = self.emit(norm.call())
            self.name = own
            self.norms[self.renamed[var]] = norm
        else:
            super().bind(var, value)
        made = self.renamed[var]
        if isinstance(made, relax.Var):
            if norm is None and isinstance(value, Call):
                self.calls[made] = value
            if self.uses.get(var, 0) == 1:
                self.single.add(made)

    def _made_by(self, name: str, expr: Expr) -> Call | None:
        """The call of the operator `name` that `expr` is the result of."""
        call = self.calls.get(expr)
        return call if call is not None and op_name(call) == name else None

    def _norm(self, call: Call) -> _Norm | None:
        name = op_name(call)
        if name not in ("add", "subtract", "multiply", "divide") or dtype_of(call) != "float32":
            return None
        if len(shape_of(call)) < 2:
            return None
        return self._scaled(call, name) or self._started(call, name) or self._distributed(call, name)

    def _scaled(self, call: Call, name: str) -> _Norm | None:
        """A normalisation with one more factor or shift."""
        for source, other in (call.args, reversed(call.args)):
            norm = self.norms.get(source)
            values = None if norm is None else _along_last(other, shape_of(call))
            if norm is None or values is None or source not in self.single:
                continue
            names = (*norm.names, str(source.name))
            if name == "multiply" and norm.shift is None:
                return _Norm(norm.data, norm.epsilon, norm.centred, norm.factor * values, None, names)
            if name == "add" and norm.centred:
                shift = values if norm.shift is None else norm.shift + values
                return _Norm(norm.data, norm.epsilon, True, norm.factor, shift, names)
        return None

    def _started(self, call: Call, name: str) -> _Norm | None:
        """What is divided by its own spread."""
        pairs = [tuple(call.args)] if name == "divide" else [tuple(call.args), tuple(call.args)[::-1]]
        for above, below in pairs if name in ("divide", "multiply") else []:
            spread = self._spread(below)
            if spread is None or spread.inverse != (name == "multiply") or shape_of(call) != shape_of(above):
                continue
            source, mean = self._centred(above)
            if mean is None and spread.mean is None:
                if not _same(above, spread.data):
                    continue
            elif (
                mean is None
                or spread.mean is None
                or not (_same(source, spread.data) and self._equal(mean, spread.mean))
            ):
                continue
            names = (*((str(above.name),) if mean is not None else ()), *spread.names)
            return self._made(spread, spread.data, names)
        return None

    def _distributed(self, call: Call, name: str) -> _Norm | None:
        """`x · inverse + (shift - mean · inverse)`, as TensorFlow writes it."""
        for left, right in (call.args, reversed(call.args)) if name == "add" else ():
            product, rest = self._made_by("multiply", left), self._made_by("subtract", right)
            if product is None or rest is None:
                continue
            shift, taken = _along_last(rest.args[0], shape_of(call)), self._made_by("multiply", rest.args[1])
            if shift is None or taken is None:
                continue
            for x, inverse in (product.args, reversed(product.args)):
                spread = self._spread(inverse)
                if spread is None or not spread.inverse or spread.mean is None or not _same(x, spread.data):
                    continue
                if any(
                    self._equal(mean, spread.mean) and _same(other, inverse)
                    for mean, other in (taken.args, reversed(taken.args))
                ):
                    names = (*spread.names, str(rest.args[1].name), str(left.name), str(right.name))
                    return self._made(spread, x, names, shift)
        return None

    def _made(
        self, spread: _Spread, data: Expr, names: tuple[str, ...], shift: Array | None = None
    ) -> _Norm | None:
        columns = shape_of(data)[-1]
        factor = np.ones(columns, np.float32) if spread.factor is None else spread.factor
        return _Norm(data, spread.epsilon, spread.mean is not None, factor, shift, names)

    def _spread(self, expr: Expr) -> _Spread | None:
        call = self.calls.get(expr)
        if call is None:
            return None
        name = op_name(call)
        if name == "multiply":  # an inverse with a factor
            for inner, other in (call.args, reversed(call.args)):
                found, values = self._spread(inner), _along_last(other, None)
                if found is not None and found.inverse and found.factor is None and values is not None:
                    columns = shape_of(found.data)[-1]
                    if values.size in (1, columns):
                        factor = np.broadcast_to(values, (columns,)).copy()
                        return _Spread(
                            found.data,
                            found.mean,
                            found.epsilon,
                            True,
                            factor,
                            (*found.names, str(expr.name)),
                        )
            return None
        inverse = False
        names = (str(expr.name),) if isinstance(expr, relax.Var) else ()
        root = self._made_by("sqrt", call.args[1]) if name == "divide" else None
        if root is not None and _number(call.args[0]) == 1.0:
            inverse, names, call = True, (str(call.args[1].name), *names), root
        elif name == "rsqrt":
            inverse = True
        elif name != "sqrt":
            return None
        power = self._power(call.args[0])
        if power is None:
            return None
        return _Spread(power[0], power[1], power[2], inverse, None, (*power[3], *names))

    def _power(self, expr: Expr) -> tuple[Expr, Expr | None, float, tuple[str, ...]] | None:
        """Of `mean(x²) + ε`: the data, its mean where that is subtracted first, ε, and the values' names."""
        call = self._made_by("add", expr)
        for mean, small in () if call is None else (call.args, reversed(call.args)):
            epsilon, averaged = _number(small), self._averaged(mean)
            squares = None if averaged is None else self._made_by("multiply", averaged)
            if epsilon is None or averaged is None or squares is None:
                continue
            one, other = squares.args
            (source, centre), (again, second) = self._centred(one), self._centred(other)
            same = _same(source, again) and (centre is None) == (second is None)
            if not same or (centre is not None and not self._equal(centre, second)):
                continue
            names = (str(averaged.name), str(mean.name), str(expr.name))
            if centre is not None:
                return source, centre, epsilon, (str(centre.name), str(one.name), *names)
            return source, None, epsilon, names
        return None

    def _centred(self, expr: Expr) -> tuple[Expr, Expr | None]:
        """The data and its mean, of the distances from the mean; of anything else the data alone."""
        call = self._made_by("subtract", expr)
        if call is not None and _same(call.args[0], self._averaged(call.args[1])):
            return call.args[0], call.args[1]
        return expr, None

    def _averaged(self, expr: Expr) -> Expr | None:
        """What `expr` is the mean of along the last axis, which stays with one element."""
        call = self._made_by("mean", expr)
        if call is None or not call.attrs.keepdims or call.attrs.axis is None:
            return None
        rank = len(shape_of(call))
        return call.args[0] if [int(axis) % rank for axis in call.attrs.axis] == [rank - 1] else None

    def _equal(self, one: Expr | None, other: Expr | None) -> bool:
        """Whether two means are of the same value."""
        if one is None or other is None:
            return False
        source = self._averaged(one)
        return _same(one, other) or (source is not None and _same(source, self._averaged(other)))


def _same(one: Expr, other: Expr | None) -> bool:
    return other is not None and bool(one.same_as(other))


def _number(expr: Expr) -> float | None:
    value = array_of(expr)
    return float(value.reshape(-1)[0]) if value is not None and value.size == 1 else None


def _along_last(expr: Expr, shape: tuple[int, ...] | None) -> Array | None:
    """A constant that varies along the last axis alone, as one number for each of its elements."""
    value = array_of(expr)
    if value is None or value.dtype != np.float32:
        return None
    if value.size > 1 and value.shape[-1] != value.size:
        return None
    if shape is None:
        return value.reshape(-1)
    if value.size not in (1, shape[-1]) or value.ndim > len(shape):
        return None
    return np.broadcast_to(value.reshape(-1), (shape[-1],)).copy()
