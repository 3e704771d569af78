"""Sizes that are known only at run time: expressions of symbolic variables, bound where a value is computed.

A size is an `int`, or a TIR expression of type int64 over variables that a parameter, a `match_cast` or the shape of a
tensor binds when the model runs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import tvm
import tvm_ffi
from tvm import relax, tirx

from edgec.compiler.frontends.relax.builder import Expr, SourceBuilder
from edgec.compiler.frontends.relax.converters.registry import CannotConvert, dtype_of
from edgec.compiler.frontends.relax.lists import NO_TENSOR

Dim: TypeAlias = Any  # an int, or a TIR expression
UNKNOWN_RANK = "the rank of its input depends on the data"


def size(value: Dim) -> Dim:
    """A size in its simplest form: an `int` where it is one."""
    if isinstance(value, int):
        return value
    simple = tvm.sym.Analyzer().simplify(value)
    return int(simple) if isinstance(simple, tirx.IntImm) else simple


def dims_of(expr: Expr) -> list[Dim]:
    """The sizes of a tensor.

    Raises:
        CannotConvert: it is no tensor, or its rank is unknown.
    """
    if isinstance(expr, NO_TENSOR):
        raise CannotConvert("its input is a sequence, not a tensor")
    shape = getattr(expr.ty, "shape", None)
    if not isinstance(shape, relax.ShapeExpr):
        raise CannotConvert(UNKNOWN_RANK)
    return [int(d) if isinstance(d, int | tirx.IntImm) else d for d in shape.values]


def is_static(expr: Expr) -> bool:
    """Whether all sizes of a tensor are numbers; False for anything else."""
    shape = getattr(getattr(expr, "ty", None), "shape", None)
    return isinstance(shape, relax.ShapeExpr) and all(isinstance(d, int | tirx.IntImm) for d in shape.values)


def is_same(a: Dim, b: Dim) -> bool:
    """Whether two sizes are provably equal."""
    if isinstance(a, int) and isinstance(b, int):
        return a == b
    return bool(tvm.sym.Analyzer().can_prove_equal(a, b))


def product(sizes: Sequence[Dim]) -> Dim:
    """The number of elements of a tensor of these sizes."""
    total: Dim = 1
    for one in sizes:
        total = one * total if isinstance(total, int) else total * one
    return size(total)


def variables(value: Dim) -> list[Expr]:
    """The symbolic sizes that an expression names."""
    found: list[Expr] = []

    def note(var: Expr) -> Expr:
        found.append(var)
        return var

    if not isinstance(value, int):
        tvm_ffi.structural_map(value, [(tirx.Var, note)])
    return found


def replaced(value: Dim, names: Mapping[Expr, Dim]) -> Dim:
    """An expression with symbolic sizes replaced by others."""
    if isinstance(value, int):
        return value

    def replace(var: Expr) -> Expr:
        other = names.get(var, var)
        return tirx.IntImm("int64", other) if isinstance(other, int) else other

    return size(tvm_ffi.structural_map(value, [(tirx.Var, replace)]))


def fresh(hint: str = "n") -> Expr:
    """A new symbolic size."""
    return tirx.Var(hint, "int64")


def bound(builder: SourceBuilder, value: Dim, hint: str = "n") -> Dim:
    """A variable for a size, so that kernels see a name instead of its formula; a number or a name stays as it is."""
    value = size(value)
    if isinstance(value, int | tirx.Var):
        return value
    for formula, name in builder.sizes:
        if is_same(formula, value):
            return name
    var = fresh(hint)
    builder.sizes.append((value, var))
    # through a call, as TVM would put the formula in the name's place, though not everywhere
    shape = relax.op.call_pure_packed(
        "vm.builtin.copy", relax.ShapeExpr([value]), ty_args=relax.ShapeType(ndim=1)
    )
    builder.match_cast(builder.emit(shape), relax.ShapeType([var]), builder.prefix)
    return var


def cast_to(builder: SourceBuilder, value: Expr, sizes: Sequence[Dim], dtype: str | None = None) -> Expr:
    """A tensor with these sizes, which are checked when the model runs; new variables among them are bound."""
    kind = relax.TensorType(list(sizes), dtype or dtype_of(value))
    return builder.match_cast(value, kind, builder.prefix)


def loose(rank: int, dtype: str) -> Expr:
    """The type of a tensor of which only the rank is known."""
    return relax.TensorType(dtype=dtype, ndim=rank)


def with_fresh_dims(builder: SourceBuilder, value: Expr, rank: int, dtype: str) -> Expr:
    """A tensor of known rank with a new variable for each size."""
    return cast_to(builder, value, [fresh(f"d{axis}") for axis in range(rank)], dtype)
