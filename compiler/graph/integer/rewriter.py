"""Rewrite quantised arithmetic to integer operators.

Requires: `dequantize` and `quantize` with constant scales and zero points, as the converters emit them.
Ensures: neither is left. A convolution or product of quantised tensors has integer operands and `out_dtype` int32,
and what follows it up to the next `quantize` is one requantisation (see `requantise`). What only moves values moves
integers. Functions of one 8-bit tensor are tables. What has no integer form computes on dequantised values.

A module without these operators is returned as it is.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import tvm
from tvm import relax
from tvm.ir import Call, Tuple, TupleGetItem

from edgec.compiler.graph.integer import requantise
from edgec.compiler.graph.integer.values import (
    STORED,
    Coded,
    Computed,
    Joined,
    Linear,
    Mapped,
    Value,
    codes_of,
    linear_of,
)
from edgec.compiler.graph.rewrite import (
    Array,
    Expr,
    Walker,
    array_of,
    constant,
    dtype_of,
    leaves,
    op_name,
)
from edgec.compiler.graph.simplify import fold

Rule = Callable[["Rewriter", Call], "Value | list[Value] | None"]
RULES: dict[str, Rule] = {}
MARKS = ("quantize", "dequantize")
# Kernels of the converters that rules know, and how many tensors they take.
KERNELS = {"maximum": 2, "minimum": 2, "interpolated": 3}
OPEN = frozenset(
    {*MARKS, "nn.conv2d", "matmul", "nn.relu", "sigmoid", "tanh"}
)  # rules that need no static shapes


def rule(*names: str) -> Callable[[Rule], Rule]:
    """Register a rule for operators: it returns the value, or None where it has no integer form."""

    def register(function: Rule) -> Rule:
        for name in names:
            RULES[name] = function
        return function

    return register


def is_quantised(mod: tvm.IRModule, entry: str = "main") -> bool:
    """Whether the function has anything to rewrite."""
    bindings = (b for block in mod[entry].body.blocks for b in block.bindings)
    return any(op_name(binding.value) in MARKS for binding in bindings)


class Rewriter(Walker):
    """Keeps the integer form of every real value until something needs its real numbers."""

    def __init__(self, mod: tvm.IRModule, entry: str = "main") -> None:
        super().__init__(mod, entry)
        self.values: dict[relax.Var, Value] = {}
        self.codes: dict[relax.Var, Coded] = {}  # what `quantize` makes
        self.lists: dict[relax.Var, list[Value]] = {}

    def bind(self, var: relax.Var, value: Expr) -> None:
        """Give the old variable `var` its new value."""
        if isinstance(value, TupleGetItem) and value.tuple_value in self.lists:
            self.values[var] = self.lists[value.tuple_value][int(value.index)]
            return
        if isinstance(value, relax.Var) and value in self.values:
            self.values[var] = self.values[value]
            return
        made = self._by_rule(value) if isinstance(value, Call) else None
        if isinstance(made, list):
            self.lists[var] = made
        elif made is not None and op_name(value) == "quantize":
            assert isinstance(made, Coded)
            self.codes[var], self.renamed[var] = made, made.data
        elif isinstance(made, Computed):
            self.renamed[var] = made.data
        elif made is not None:
            self.values[var] = made
        else:
            self.renamed[var] = self._computed(self.plain(value))

    def _computed(self, value: Expr) -> Expr:
        """A value as a variable of the new function, or as the constant that it is."""
        if isinstance(value, relax.Var | tvm.ir.GenericConst):
            return value
        folded = fold(value) if isinstance(value, Call) else None
        return self.emit(value) if folded is None else constant(folded)

    def match(self, binding: relax.MatchCast, value: Expr) -> None:
        """Keep a binding that gives sizes their names."""
        super().match(binding, self.plain(value))

    def _by_rule(self, call: Call) -> Value | list[Value] | None:
        name = operator_of(call)
        found = RULES.get(name)
        if found is None or (name not in OPEN and not _is_static(call)):
            return None
        if name not in MARKS and not any(leaf in self.values for leaf in leaves(call)):
            return None
        return found(self, call)

    def resolve(self, value: Expr) -> Expr:
        """`value` as it is: the rules look at the old expression first."""
        return value

    def finish(self, result: Expr) -> Expr:
        """The result in its final form."""
        return self.plain(result)

    # What the rules use.

    def value(self, expr: Expr) -> Value | None:
        """What is known of an operand; None for one that is computed in floating point."""
        if isinstance(expr, relax.Var) and expr in self.values:
            return self.values[expr]
        array = array_of(self.renamed.get(expr, expr) if isinstance(expr, relax.Var) else expr)
        return array.astype(np.float64) if array is not None and array.dtype.kind == "f" else None

    def array(self, expr: Expr) -> Array | None:
        """The real numbers of a constant, float64."""
        value = self.value(expr)
        if isinstance(value, Coded) and value.array is not None:
            return value.real()
        return value if isinstance(value, np.ndarray) else None

    def plain(self, value: Expr) -> Expr:
        """`value` in the new function, with the real numbers of what it reads."""
        for leaf in leaves(value):
            if isinstance(leaf, relax.Var) and leaf not in self.renamed:
                if leaf in self.values:
                    self.renamed[leaf] = self.real(self.values[leaf])
                elif leaf in self.lists:
                    fields = [self.real(one) for one in self.lists[leaf]]
                    self.renamed[leaf] = self.emit(Tuple(fields))
        return super().resolve(value)

    def real(self, value: Value) -> Expr:
        """The real numbers, float32."""
        if isinstance(value, np.ndarray):
            return constant(value.astype(np.float32))
        if isinstance(value, Computed):
            return value.data
        if isinstance(value, Coded):
            return self._decoded(value)
        if isinstance(value, Joined):
            return self.emit(relax.op.concat([self.real(part) for part in value.parts], value.axis))
        if isinstance(value, Mapped):
            if value.linear is not None:
                return self.real(value.linear)
            dtype = value.real.dtype if value.real.dtype == np.bool_ else np.float32
            return self.looked_up(value.root, value.real.astype(dtype))
        return self._summed(value)

    def _decoded(self, value: Coded) -> Expr:
        if value.array is not None:
            return constant(value.real().astype(np.float32))
        real = self.emit(relax.op.astype(value.data, "float32"))
        if value.zero.any():
            real = self.emit(relax.op.subtract(real, constant(value.zero.astype(np.float32))))
        return self.emit(relax.op.multiply(real, constant(value.scale.astype(np.float32))))

    def _summed(self, value: Linear) -> Expr:
        size = max((float(np.max(np.abs(t.factor))) * t.most for t in value.terms), default=1.0)
        made = requantise.common(value, np.asarray(max(size, 1e-30) * 2.0**-18))
        if made is not None:
            sums = self.emit(relax.op.astype(self.sums(value, made), "float32"))
            with np.errstate(over="ignore"):  # scales at the ends of float32
                unit = made.unit.astype(np.float32)
            real = self.emit(relax.op.multiply(sums, constant(unit)))
        else:
            real = constant(value.offset.astype(np.float32))
            for term in value.terms:
                part = self.emit(relax.op.astype(term.data, "float32"))
                if term.shift.any():
                    part = self.emit(relax.op.add(part, constant(term.shift.astype(np.float32))))
                part = self.emit(relax.op.multiply(part, constant(term.factor.astype(np.float32))))
                real = self.emit(relax.op.add(part, real))
        return self._limited(real, np.asarray(value.low), np.asarray(value.high), "float32")

    def _limited(self, value: Expr, low: Array, high: Array, dtype: str) -> Expr:
        if np.isfinite(low).any():
            value = self.emit(relax.op.maximum(value, constant(_narrowed(low, dtype))))
        if np.isfinite(high).any():
            value = self.emit(relax.op.minimum(value, constant(_narrowed(high, dtype))))
        return value

    def sums(self, value: Linear, made: requantise.Common) -> Expr:
        """The integers of a linear value in its common unit."""
        total: Expr | None = None
        for term, multiplier in zip(value.terms, made.multipliers, strict=True):
            part = self.widened(term.data, made.dtype)
            if not np.all(multiplier == 1):
                part = self.emit(relax.op.multiply(part, constant(_narrowed(multiplier, made.dtype))))
            total = part if total is None else self.emit(relax.op.add(total, part))
        if made.constant.any():
            total = self.emit(relax.op.add(total, constant(_narrowed(made.constant, made.dtype))))
        assert total is not None
        return total

    def widened(self, data: Expr, dtype: str) -> Expr:
        """Integers in another type."""
        return data if dtype_of(data) == dtype else self.emit(relax.op.astype(data, dtype))

    def looked_up(self, codes: Expr, table: Array) -> Expr:
        """The entry of a table for each code, the least code first."""
        places = self.widened(codes, "int32")
        least = int(np.iinfo(dtype_of(codes)).min)
        if least:
            places = self.emit(relax.op.add(places, constant(np.asarray(-least, np.int32))))
        return self.emit(relax.op.take(constant(table), places, axis=0))

    def requantised(self, value: Linear, scale: Array, zero: Array, dtype: str) -> Coded | None:
        """A linear value on a grid; None where integers do not hold its sums."""
        by_shift = requantise.shifted(value, scale)
        if by_shift is not None:
            return Coded(self._shifted(value, by_shift, scale, zero, dtype), scale, zero)
        made = requantise.common(value, scale)
        if made is None:
            return None
        multiplier = requantise.multiplier_of(made, scale)
        if not np.isfinite(multiplier).all():  # scales at the ends of float32
            return None
        sums = self.emit(relax.op.astype(self.sums(value, made), "float32"))
        steps = self.emit(relax.op.multiply(sums, constant(_narrowed(multiplier, "float32"))))
        low, high = requantise.limits_of(value, scale, zero, dtype)
        return Coded(self.rounded(steps, low, high, zero, dtype), scale, zero)

    def _shifted(
        self, value: Linear, made: requantise.Shifted, scale: Array, zero: Array, dtype: str
    ) -> Expr:
        common = requantise.Common(made.multipliers, made.constant, scale, "int32")
        total = self.emit(
            relax.op.right_shift(self.sums(value, common), constant(np.asarray(made.shift, np.int32)))
        )
        if zero.any():
            total = self.emit(relax.op.add(total, constant(_narrowed(zero, "int32"))))
        low, high = requantise.limits_of(value, scale, zero, dtype)
        return self.emit(relax.op.astype(self._limited(total, low, high, "int32"), dtype))

    def rounded(self, steps: Expr, low: Array, high: Array, zero: Array, dtype: str) -> Expr:
        """Steps of a grid as its codes: rounded half to even, moved, saturated."""
        steps = self.emit(relax.op.round(steps))
        if zero.any():
            steps = self.emit(relax.op.add(steps, constant(_narrowed(zero, "float32"))))
        steps = self._limited(steps, low, high, "float32")
        return self.emit(relax.op.astype(steps, dtype))


def _narrowed(array: Array, dtype: str) -> Array:
    """An array in a type; of rank 0 where all elements are the same."""
    flat = array.reshape(-1)
    whole = flat.size > 0 and bool((flat == flat[0]).all())
    return (flat[0] if whole else array).astype(dtype).reshape(() if whole else array.shape)


def operator_of(call: Call) -> str:
    """The operator, or the name of a kernel of the converters that rules know."""
    name = op_name(call)
    if name != "call_tir":
        return name
    own = str(call.args[0].name_hint).rstrip("0123456789")
    return own if len(call.args[1].fields) == KERNELS.get(own, -1) else name


def operands_of(call: Call) -> list[Expr]:
    """The tensors that a call of `operator_of` takes."""
    return list(call.args[1].fields) if op_name(call) == "call_tir" else list(call.args)


def _is_static(call: Call) -> bool:
    kinds = [call.ty, *(leaf.ty for leaf in leaves(call) if isinstance(leaf, relax.Var))]
    return all(_has_sizes(kind) for kind in kinds)


def _has_sizes(kind: Expr) -> bool:
    if isinstance(kind, relax.TupleType):
        return all(_has_sizes(field) for field in kind.fields)
    shape = getattr(kind, "shape", None)
    return isinstance(shape, relax.ShapeExpr) and all(
        isinstance(size, int | tvm.tirx.IntImm) for size in shape.values
    )


def _along(parameter: Array, axis: int, rank: int) -> Array:
    """A scale or zero point in a shape that broadcasts against the tensor."""
    if parameter.size == 1:
        return parameter.reshape(())
    if parameter.ndim == rank:
        return parameter
    return parameter.reshape([-1 if i == axis % rank else 1 for i in range(rank)])


def _grid(call: Call) -> tuple[Array, Array]:
    scale, zero = array_of(call.args[1]), array_of(call.args[2])
    assert scale is not None
    assert zero is not None
    axis, rank = int(call.attrs.axis), int(call.ty.ndim)
    return (
        _along(scale.astype(np.float64), axis, rank),
        _along(zero.astype(np.int64), axis, rank),
    )


@rule("dequantize")
def _dequantize(r: Rewriter, call: Call) -> Value:
    scale, zero = _grid(call)
    known = r.codes.get(call.args[0]) if isinstance(call.args[0], relax.Var) else None
    data, root = r.plain(call.args[0]), known.root if known else None
    return Coded(data, scale, zero, array_of(data), root)


@rule("quantize")
def _quantize(r: Rewriter, call: Call) -> Value:
    scale, zero = _grid(call)
    dtype = dtype_of(call)
    made = quantised(r, r.value(call.args[0]), scale, zero, dtype)
    if made is not None:
        return made
    real = r.plain(call.args[0])
    steps = r.emit(relax.op.divide(real, constant(scale.astype(np.float32))))
    info = np.iinfo(dtype)
    low, high = np.asarray(float(info.min)), np.asarray(float(info.max))
    return Coded(r.rounded(steps, low, high, zero, dtype), scale, zero)


def quantised(r: Rewriter, value: Value | None, scale: Array, zero: Array, dtype: str) -> Coded | None:
    """A value on a grid without computing real numbers; None where that is not possible."""
    if isinstance(value, Joined):
        parts = [quantised(r, part, scale, zero, dtype) for part in value.parts]
        if any(part is None for part in parts) or scale.size > 1:
            return None
        return Coded(r.emit(relax.op.concat([part.data for part in parts if part], value.axis)), scale, zero)
    if isinstance(value, Coded) and value.same_grid(Coded(value.data, scale, zero)) and value.dtype == dtype:
        return value
    if dtype not in STORED or not (np.isfinite(scale).all() and (scale > 0).all()):
        return None
    if isinstance(value, Mapped) and (value.linear is None or value.linear.offset.any()):
        return _by_line_or_table(r, value, scale, zero, dtype)
    linear = None if isinstance(value, np.ndarray) else linear_of(value)
    made = None if linear is None else r.requantised(linear, scale, zero, dtype)
    return made and _with_root(value, linear, made)


def _with_root(value: Value | None, linear: Linear | None, made: Coded) -> Coded:
    """The codes, with the function of 8-bit codes that they are, so that what follows may become one table."""
    if linear is None or len(linear.terms) != 1 or not made.per_tensor or made.dtype not in ("int8", "uint8"):
        return made
    source = value if isinstance(value, Coded) else None
    term = linear.terms[0]
    if term.factor.size != 1 or dtype_of(term.data) not in ("int8", "uint8"):
        return made
    root, codes = (source.root if source else None) or (term.data, codes_of(dtype_of(term.data)))
    common = requantise.common(linear, made.scale)
    if common is None or common.constant.size != 1 or common.multipliers[0].size != 1:
        return made
    known = requantise.codes_by_arithmetic(linear, common, codes, made.scale, made.zero, made.dtype)
    return Coded(made.data, made.scale, made.zero, root=(root, known))


def _by_line_or_table(r: Rewriter, value: Mapped, scale: Array, zero: Array, dtype: str) -> Coded | None:
    """A function of 8-bit codes on a grid, by the arithmetic of a line where that gives the table's codes."""
    linear = value.linear
    one = linear is not None and len(linear.terms) == 1 and linear.terms[0].data.same_as(value.root)
    if linear is not None and one and scale.size == 1:
        own = codes_of(dtype_of(value.root))
        wanted = requantise.codes_by_table(value.real, scale, zero, dtype)
        line = requantise.as_table(linear, own, wanted, scale, zero, dtype)
        made = None if line is None else r.requantised(line, scale, zero, dtype)
        if made is not None:
            return _with_root(value, line, made)
    return _by_table(r, value, scale, zero, dtype)


def _by_table(r: Rewriter, value: Mapped, scale: Array, zero: Array, dtype: str) -> Coded | None:
    if scale.size > 1 or value.real.dtype == np.bool_ or np.isnan(value.real).any():
        return None
    codes = requantise.codes_by_table(value.real, scale, zero, dtype)
    own = codes_of(dtype_of(value.root))
    low, high = codes.min(), codes.max()
    if dtype == dtype_of(value.root) and (np.clip(own, low, high) == codes).all():
        data = value.root
        if low > own[0]:
            data = r.emit(relax.op.maximum(data, constant(np.asarray(low, dtype))))
        if high < own[-1]:
            data = r.emit(relax.op.minimum(data, constant(np.asarray(high, dtype))))
    else:
        data = r.looked_up(value.root, codes.astype(dtype))
    return Coded(data, scale, zero, root=(value.root, codes) if dtype in ("int8", "uint8") else None)
