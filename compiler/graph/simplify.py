"""Bring the importer's output into the form that later passes expect.

Requires: static shapes.
Ensures: no batch norm; arithmetic on constants alone is done; no division by powers of two, or in an error function;
clip is a relax `maximum`/`minimum` pair; scalar operands are rank-0 constants; a convolution or product with
constant weights that is followed by a multiplication or addition per output channel has the factor in its weights and
one bias behind it; zeros around the image of a convolution are padding of its own (`image_padding`), and a
normalisation along the last axis is one operator (`layer_norms`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import tvm
from tvm import relax
from tvm.ir import Call, Tuple, TupleGetItem

from edgec.compiler.graph.image_padding import fold_image_padding
from edgec.compiler.graph.layer_norms import name_layer_norms
from edgec.compiler.graph.rewrite import (
    Array,
    Expr,
    Walker,
    array_of,
    constant,
    dtype_of,
    is_tensor,
    leaves,
    op_name,
    shape_of,
)

_BINARY: dict[str, Callable[..., Any]] = {
    "add": np.add, "subtract": np.subtract, "multiply": np.multiply, "divide": np.divide,
    "maximum": np.maximum, "minimum": np.minimum, "power": np.power,
}  # fmt: skip
_UNARY: dict[str, Callable[..., Any]] = {
    "isnan": np.isnan, "sqrt": np.sqrt, "negative": np.negative, "exp": np.exp, "abs": np.abs,
    "rsqrt": lambda x: 1 / np.sqrt(x), "nn.relu": lambda x: np.maximum(x, 0),
}  # fmt: skip


def simplify(mod: tvm.IRModule) -> tvm.IRModule:
    """Apply the pass (see the module's docstring)."""
    mod = relax.transform.DeadCodeElimination(["main"])(mod)
    mod = _Canonical(mod).run()
    return _FoldAffine(name_layer_norms(fold_image_padding(mod))).run()


def fold(call: Call) -> Array | None:
    """The value of a call whose arguments are all constants; None when it has others or is not known here."""
    name = op_name(call)
    operands = [arg for arg in call.args if not isinstance(arg, relax.ShapeExpr)]
    arrays = [a for arg in operands if (a := array_of(arg)) is not None]
    if not arrays or len(arrays) < len(operands) or not is_tensor(call):
        return None
    if name == "divide" and "int" in dtype_of(call):
        return None  # numpy's quotients are real numbers
    with np.errstate(all="ignore"):
        if name in _BINARY and len(arrays) == 2:
            out = _BINARY[name](*arrays)
        elif name in _UNARY:
            out = _UNARY[name](arrays[0])
        elif name == "where":
            out = np.where(*arrays)
        elif name in ("reshape", "expand_dims", "squeeze"):
            out = np.reshape(arrays[0], shape_of(call))
        elif name == "permute_dims":
            axes = call.attrs.axes
            out = np.transpose(arrays[0], None if axes is None else [int(a) for a in axes])
        elif name == "broadcast_to":
            out = np.broadcast_to(arrays[0], shape_of(call))
        elif name == "astype":
            out = arrays[0]
        else:
            return None
    return np.asarray(out).astype(np.dtype(dtype_of(call)))


class _Canonical(Walker):
    """Batch norm and clip into plain arithmetic, constant arithmetic done."""

    def __init__(self, mod: tvm.IRModule, entry: str = "main") -> None:
        super().__init__(mod, entry)
        # quotients that are read once, by their new variable: dividend, one over the divisor, name
        self.quotients: dict[Expr, tuple[Expr, Expr, str]] = {}

    def bind(self, var: relax.Var, value: Expr) -> None:
        """Give the old variable `var` its new value."""
        if isinstance(value, TupleGetItem) and isinstance(value.tuple_value, Tuple):
            self.renamed[var] = value.tuple_value.fields[value.index]
            return
        if op_name(value) == "nn.batch_norm":
            made = self._batch_norm(value)
            if made is not None:
                fields = [made, *[value.args[3], value.args[4]]]
                self.renamed[var] = relax.Tuple(fields)
                return
        super().bind(var, value)
        if op_name(value) == "divide" and self.uses.get(var, 0) == 1:
            inverse = _inverse(value.args[1], exact=False)
            if inverse is not None and shape_of(value.args[0]) == shape_of(value):
                self.quotients[self.renamed[var]] = (value.args[0], inverse, self.name)

    def visit(self, var: relax.Var, call: Call) -> Expr:
        if is_tensor(call):
            folded = fold(call)
            if folded is not None:
                return constant(folded)
        name = op_name(call)
        if name == "call_tir":
            return self._clip_side(call)
        if name in _BINARY:
            return self._scalar_operands(call)
        if name == "nn.conv2d" and (factors := _scaling(call)) is not None:
            return relax.op.multiply(call.args[0], factors)
        if name == "erf" and call.args[0] in self.quotients:
            return self._erf(*self.quotients[call.args[0]])
        if name == "nn.dropout":
            return relax.Tuple([call.args[0], call.args[0]])
        return call

    def _erf(self, dividend: Expr, inverse: Expr, name: str) -> Expr:
        """The error function of a quotient, which is smooth: a product in the quotient's place does not show."""
        own, self.name = self.name, name
        product = self.emit(relax.op.multiply(dividend, inverse))
        self.name = own
        return relax.op.erf(product)

    def _batch_norm(self, call: Call) -> Expr | None:
        arrays = [array_of(arg) for arg in call.args[1:]]
        if any(a is None for a in arrays):
            return None
        gamma, beta, mean, variance = (np.asarray(a, np.float64) for a in arrays)
        attrs = call.attrs
        axis, rank = int(attrs.axis), len(shape_of(call.args[0]))
        factor = (gamma if attrs.scale else 1.0) / np.sqrt(variance + float(attrs.epsilon))
        shift = (beta if attrs.center else 0.0) - mean * factor
        shape = [1] * rank
        shape[axis] = -1
        dtype = np.dtype(dtype_of(call.args[0]))
        scaled = self.emit(relax.op.multiply(call.args[0], constant(factor.reshape(shape).astype(dtype))))
        return self.emit(relax.op.add(scaled, constant(shift.reshape(shape).astype(dtype))))

    def _clip_side(self, call: Call) -> Expr:
        """The importer clips through kernels of its own, whose bounds are rank-0 tensors."""
        name = str(call.args[0].name_hint).rstrip("0123456789")
        args = list(call.args[1].fields)
        if name not in ("maximum", "minimum") or len(args) != 2:
            return call
        op = relax.op.maximum if name == "maximum" else relax.op.minimum
        return op(args[0], args[1])

    def _scalar_operands(self, call: Call) -> Expr:
        """A constant of one element becomes rank 0 (kernels then hold it as an immediate)."""
        args = list(call.args)
        for i, arg in enumerate(args):
            value, other = array_of(arg), args[1 - i]
            if (
                value is not None
                and value.size == 1
                and value.ndim <= len(shape_of(other))
                and value.ndim > 0
            ):
                args[i] = constant(value.reshape(()))
        if op_name(call) == "divide" and (inverse := _inverse(args[1], exact=True)) is not None:
            return relax.op.multiply(args[0], inverse)
        return Call(call.op, args, call.attrs, call.ty_args)


def _scaling(call: Call) -> Expr | None:
    """The factors per channel that a depthwise convolution with 1×1 kernels multiplies by; None for any other."""
    attrs, weight, (data, kernel) = call.attrs, array_of(call.args[1]), map(shape_of, call.args)
    plain = attrs.data_layout == attrs.out_layout == "NCHW" and attrs.kernel_layout == "OIHW"
    if weight is None or not plain or dtype_of(call) != "float32" or weight.dtype != np.float32:
        return None
    if kernel != (data[1], 1, 1, 1) or int(attrs.groups) != data[1] or shape_of(call) != data:
        return None
    return constant(weight.reshape(1, -1, 1, 1))


def _inverse(expr: Expr, *, exact: bool) -> Expr | None:
    """One over a float32 number; None for any other divisor, and where float32 does not hold it well enough.

    To multiply by an inverse that is not `exact` (a power of two) may differ from the quotient in the last place: what
    counts, rounds or cuts quotients then sees another number.
    """
    value = array_of(expr)
    if value is None or value.size != 1 or value.dtype != np.float32:
        return None
    size = abs(float(value.reshape(())))
    if not 2.0**-120 < size < 2.0**120 or (exact and np.frexp(size)[0] != 0.5):
        return None
    return constant(np.asarray(np.float32(1.0) / value.reshape(())))


def _per_channel(array: Array, rank: int, axis: int, channels: int) -> Array | None:
    """`array` as one value per index of `axis`, when it varies along that axis only."""
    if array.size == 1:
        return np.full((channels,), array.reshape(()))
    if array.ndim > rank:
        return None
    full = array.reshape((1,) * (rank - array.ndim) + array.shape)
    if full.shape[axis] == channels and full.size == channels:
        return full.reshape(-1)
    return None


_LINEAR = {"nn.conv2d": 1, "nn.conv1d": 1, "nn.conv2d_transpose": 1, "nn.conv3d": 1}


class _FoldAffine(Walker):
    """Multiplications and additions per channel move into the weights and the bias of what comes before."""

    def __init__(self, mod: tvm.IRModule, entry: str = "main") -> None:
        super().__init__(mod, entry)
        # A linear call not yet emitted, by its variable in the old function: the call, factor and shift per channel,
        # and the names (which carry the source nodes) of the call and of the last operation merged into it.
        self.pending: dict[relax.Var, tuple[Call, Array, Array | None, str, str]] = {}

    def bind(self, var: relax.Var, value: Expr) -> None:
        """Give the old variable `var` its new value."""
        name = op_name(value)
        if name in _LINEAR and array_of(value.args[1]) is not None and dtype_of(value.args[1]) == "float32":
            if self.uses.get(var, 0) == 1:
                call = self._resolved(value)
                self.pending[var] = (
                    call,
                    np.ones(shape_of(value)[1], np.float64),
                    None,
                    self.name,
                    self.name,
                )
                return
        elif name in ("multiply", "add", "subtract", "divide") and self._absorb(var, value, name):
            return
        super().bind(var, self._resolved(value))

    def resolve(self, value: Expr) -> Expr:
        """`value` as it is."""
        return value  # `bind` resolves: it has to see first whether a pending call can take the value in

    def finish(self, result: Expr) -> Expr:
        """The result in its final form."""
        return self._resolved(result)

    def _resolved(self, value: Expr) -> Expr:
        return super().resolve(self._flush(value))

    def _flush(self, value: Expr) -> Expr:
        for leaf in leaves(value):
            if isinstance(leaf, relax.Var) and leaf in self.pending:
                self.renamed[leaf] = self._materialise(*self.pending.pop(leaf))
        return value

    def _absorb(self, var: relax.Var, call: Call, name: str) -> bool:
        for side in (0, 1):
            source, other = call.args[side], array_of(call.args[1 - side])
            if other is None or not isinstance(source, relax.Var) or source not in self.pending:
                continue
            if side == 1 and name in ("subtract", "divide"):
                continue
            linear, factor, shift, hint, _ = self.pending[source]
            if shape_of(call) != shape_of(linear):
                continue
            values = _per_channel(other.astype(np.float64), len(shape_of(call)), 1, factor.size)
            if values is None:
                continue
            factor, shift = _combine(name, factor, shift, values)
            del self.pending[source]
            self.pending[var] = (linear, factor, shift, hint, self.name)
            if self.uses.get(var, 0) != 1:
                self.renamed[var] = self._materialise(*self.pending.pop(var))
            return True
        return False

    def _materialise(self, call: Call, factor: Array, shift: Array | None, hint: str, last: str) -> Expr:
        weight = array_of(call.args[1])
        assert weight is not None
        name, self.name = self.name, hint
        if not np.all(factor == 1.0):
            shape = [1] * weight.ndim
            if op_name(call) == "nn.conv2d_transpose":  # IOHW: the groups split the input channels
                groups = int(call.attrs.groups)
                per_input = np.repeat(factor.reshape(groups, -1), weight.shape[0] // groups, axis=0)
                scaled = weight * per_input.reshape(weight.shape[0], weight.shape[1], *shape[2:])
            else:
                scaled = weight * factor.reshape(-1, *shape[1:])
            call = Call(
                call.op, [call.args[0], constant(scaled.astype(weight.dtype))], call.attrs, call.ty_args
            )
        out = self.emit(call)
        if shift is not None:
            self.name = last
            shape = [1] * len(shape_of(out))
            shape[1] = -1
            out = self.emit(relax.op.add(out, constant(shift.reshape(shape).astype(weight.dtype))))
        self.name = name
        return out


def _combine(name: str, factor: Array, shift: Array | None, values: Array) -> tuple[Array, Array | None]:
    if name == "multiply":
        return factor * values, None if shift is None else shift * values
    if name == "divide":
        return factor / values, None if shift is None else shift / values
    moved = values if name == "add" else -values
    return factor, moved if shift is None else shift + moved
