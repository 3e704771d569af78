"""Helpers of the passes to take Relax functions apart and rebuild them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import tvm
from tvm import relax
from tvm.ir import Call, GenericConst, Tuple, TupleGetItem

Expr: TypeAlias = tvm.ir.Expr
Array = npt.NDArray[Any]
_LEAVES = (GenericConst, relax.Var)


def map_leaves(expr: Expr, replace: Callable[[Expr], Expr]) -> Expr:
    """`expr` with `replace` applied to each variable and constant in it (calls, tuples, projections deep)."""
    if isinstance(expr, _LEAVES):
        return replace(expr)
    if isinstance(expr, Tuple):
        return relax.Tuple([map_leaves(field, replace) for field in expr.fields])
    if isinstance(expr, TupleGetItem):
        return relax.TupleGetItem(map_leaves(expr.tuple_value, replace), expr.index)
    if isinstance(expr, Call):
        args = [map_leaves(arg, replace) for arg in expr.args]
        return Call(expr.op, args, expr.attrs, expr.ty_args, ret_ty=expr.ty)
    return expr


def leaves(expr: Expr) -> list[Expr]:
    """The variables and constants that `expr` reads, in order, with repetitions."""
    found: list[Expr] = []
    _collect(expr, found)
    return found


def _collect(expr: Expr, found: list[Expr]) -> None:
    """Append the leaves of `expr`; nothing is rebuilt, as `map_leaves` would."""
    if isinstance(expr, _LEAVES):
        found.append(expr)
    elif isinstance(expr, Call):
        for arg in expr.args:
            _collect(arg, found)
    elif isinstance(expr, Tuple):
        for field in expr.fields:
            _collect(field, found)
    elif isinstance(expr, TupleGetItem):
        _collect(expr.tuple_value, found)


def shape_of(expr: Expr) -> tuple[int, ...]:
    """The static shape of a tensor expression."""
    return tuple(int(dim) for dim in expr.ty.shape.values)


def is_tensor(expr: Expr) -> bool:
    """Whether `expr` is a tensor of a static shape."""
    return isinstance(expr.ty, relax.TensorType) and isinstance(expr.ty.shape, relax.ShapeExpr)


def dtype_of(expr: Expr) -> str:
    """The element type of a tensor expression, by numpy's name."""
    return str(expr.ty.dtype.dtype)


def with_value(binding: relax.Binding, value: Expr) -> relax.Binding:
    """The binding (of a value, or of one whose sizes are matched) with another value."""
    if isinstance(binding, relax.MatchCast):
        return relax.MatchCast(binding.var, value, binding.ty)
    return relax.VarBinding(binding.var, value)


def op_name(expr: Expr) -> str:
    """`nn.conv2d` for a call of `relax.nn.conv2d`; empty for what is not a call of an operator."""
    if isinstance(expr, Call) and isinstance(expr.op, tvm.ir.Op):
        return str(expr.op.name).removeprefix("relax.")
    return ""


def array_of(expr: Expr) -> Array | None:
    """The value of a constant; None for any other expression."""
    if isinstance(expr, GenericConst) and isinstance(expr.value, tvm.runtime.Tensor):
        return np.asarray(expr.value.numpy())
    return None


def constant(array: Array) -> GenericConst:
    """A Relax constant of the same shape and element type as `array`."""
    return relax.const(np.array(array, order="C"), str(array.dtype))


class Walker:
    """Rebuilds a function binding by binding.

    Subclasses define `visit`, which maps one call (its arguments already rewritten) to an expression; whatever
    they emit on the way goes through `emit` and is named after the current binding.
    """

    def __init__(self, mod: tvm.IRModule, entry: str = "main") -> None:
        self.mod = mod
        self.entry = entry
        others = {gv: f for gv, f in mod.functions.items() if gv.name_hint != entry}
        self.builder = relax.BlockBuilder(tvm.IRModule(others, attrs=mod.attrs))
        self.renamed: dict[relax.Var, Expr] = {}
        self.uses: dict[relax.Var, int] = {}
        self.name = ""

    def run(self) -> tvm.IRModule:
        """The rewritten module; functions that nothing calls any more are dropped."""
        function = self.mod[self.entry]
        self._count_uses(function)
        builder = self.builder
        with builder.function(self.entry, list(function.params), attrs=dict(function.attrs or {})):
            with builder.dataflow():
                self.begin(function)
                for block in function.body.blocks:
                    for binding in block.bindings:
                        self.name = str(binding.var.name)
                        value = self.resolve(binding.value)
                        if isinstance(binding, relax.MatchCast):
                            self.match(binding, value)
                        else:
                            self.bind(binding.var, value)
                result = builder.emit_output(self.finish(self.resolve(function.body.body)))
            builder.emit_func_output(result)
        return relax.transform.DeadCodeElimination([self.entry])(builder.finalize())

    def _count_uses(self, function: relax.Function) -> None:
        values = [b.value for block in function.body.blocks for b in block.bindings] + [function.body.body]
        for value in values:
            for leaf in leaves(value):
                if isinstance(leaf, relax.Var):
                    self.uses[leaf] = self.uses.get(leaf, 0) + 1

    def begin(self, function: relax.Function) -> None:
        """Called inside the dataflow block before the first binding."""

    def finish(self, result: Expr) -> Expr:
        """The function's result, rewritten."""
        return result

    def resolve(self, value: Expr) -> Expr:
        """`value` with the variables of the old function replaced."""
        return map_leaves(
            value, lambda leaf: self.renamed.get(leaf, leaf) if isinstance(leaf, relax.Var) else leaf
        )

    def bind(self, var: relax.Var, value: Expr) -> None:
        """Give the old variable `var` its value in the new function."""
        made = self.visit(var, value) if isinstance(value, Call) else value
        self.renamed[var] = made if isinstance(made, relax.Var | GenericConst) else self.emit(made)

    def match(self, binding: relax.MatchCast, value: Expr) -> None:
        """Keep a binding that gives sizes their names."""
        self.renamed[binding.var] = self.builder.match_cast(value, binding.ty, self.name)

    def visit(self, var: relax.Var, call: Call) -> Expr:
        """The replacement of `call`, which the old function binds to `var`."""
        return call

    def emit(self, expr: Expr) -> Expr:
        """Bind `expr` to a new variable named after the current binding."""
        return self.builder.emit(expr, name_hint=self.name)
