"""Element-wise operators: tables for functions of one 8-bit tensor, sums and products of integers for the others."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
from tvm import relax
from tvm.ir import Call

from edgec.compiler.graph.integer import choices
from edgec.compiler.graph.integer.requantise import INT32
from edgec.compiler.graph.integer.rewriter import Rewriter, operands_of, operator_of, rule
from edgec.compiler.graph.integer.values import (
    STORED,
    Coded,
    Linear,
    Mapped,
    Term,
    Value,
    in_float32,
    linear_of,
    mapped_of,
)
from edgec.compiler.graph.rewrite import Array, Expr, constant

Function = Callable[..., Array]


_erf = np.vectorize(math.erf, otypes=[np.float64])


def _sigmoid(x: Array) -> Array:
    return np.asarray(1 / (1 + np.exp(-x)))


def _silu(x: Array) -> Array:
    return np.asarray(x * _sigmoid(x))


def _gelu(x: Array) -> Array:
    return np.asarray(0.5 * x * (1 + _erf(x * np.sqrt(0.5))))


def _gelu_tanh(x: Array) -> Array:
    return np.asarray(0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))))


UNARY: dict[str, Function] = {
    "abs": np.abs, "negative": np.negative, "exp": np.exp, "log": np.log, "sqrt": np.sqrt,
    "rsqrt": lambda x: 1 / np.sqrt(x), "square": np.square, "sigmoid": _sigmoid, "tanh": np.tanh,
    "erf": _erf, "sin": np.sin, "cos": np.cos, "tan": np.tan, "asin": np.arcsin, "acos": np.arccos,
    "atan": np.arctan, "sinh": np.sinh, "cosh": np.cosh, "asinh": np.arcsinh, "acosh": np.arccosh,
    "atanh": np.arctanh, "floor": np.floor, "ceil": np.ceil, "round": np.rint, "trunc": np.trunc, "sign": np.sign,
    "nn.relu": lambda x: np.maximum(x, 0), "nn.relu6": lambda x: np.clip(x, 0, 6), "nn.silu": _silu,
    "nn.gelu": _gelu, "nn.gelu_tanh": _gelu_tanh, "nn.softplus": lambda x: np.logaddexp(x, 0),
}  # fmt: skip
BINARY: dict[str, Function] = {
    "add": np.add, "subtract": np.subtract, "multiply": np.multiply, "divide": np.divide, "power": np.power,
    "maximum": np.maximum, "minimum": np.minimum, "greater": np.greater, "greater_equal": np.greater_equal,
    "less": np.less, "less_equal": np.less_equal, "equal": np.equal, "not_equal": np.not_equal,
    "logical_and": np.logical_and, "logical_or": np.logical_or,
}  # fmt: skip
LIMITS = {"nn.relu": (0.0, np.inf), "nn.relu6": (0.0, 6.0)}


@rule(*UNARY)
def _unary(r: Rewriter, call: Call) -> Value | None:
    name, value = operator_of(call), r.value(call.args[0])
    linear, mapped = linear_of(value), mapped_of(value)
    if name == "negative" and linear is not None and mapped is None:
        return linear.times(np.asarray(-1.0))
    limited = linear.within(*LIMITS[name]) if name in LIMITS and linear is not None and linear.terms else None
    if mapped is None:
        return choices.absolute(r, linear) if name == "abs" and linear is not None else limited
    return _mapped(UNARY[name], [mapped], limited)


@rule("nn.leakyrelu")
def _leaky_relu(r: Rewriter, call: Call) -> Value | None:
    mapped, alpha = mapped_of(r.value(call.args[0])), float(call.attrs.alpha)
    return mapped and _mapped(lambda x: np.where(x > 0, x, alpha * x), [mapped])


@rule("clip")
def _clip(r: Rewriter, call: Call) -> Value | None:
    low, high = (
        float(arg.value.value if hasattr(arg.value, "value") else arg.value) for arg in call.args[1:]
    )
    value = r.value(call.args[0])
    linear, mapped = linear_of(value), mapped_of(value)
    limited = linear.within(low, high) if linear is not None and linear.terms else None
    return _mapped(lambda x: np.clip(x, low, high), [mapped], limited) if mapped is not None else limited


@rule("nn.batch_norm")
def _batch_norm(r: Rewriter, call: Call) -> list[Value] | None:
    """A factor and an addend per channel."""
    linear, attrs = linear_of(r.value(call.args[0])), call.attrs
    arrays = [r.array(arg) for arg in call.args[1:]]
    if linear is None or not linear.terms or linear.limited or any(a is None for a in arrays):
        return None
    gamma, beta, mean, variance = (np.asarray(a, np.float64) for a in arrays)
    factor = (gamma if attrs.scale else 1.0) / np.sqrt(variance + float(attrs.epsilon))
    addend = (beta if attrs.center else 0.0) - mean * factor
    rank, axis = int(call.args[0].ty.ndim), int(attrs.axis)
    shape = [-1 if i == axis % rank else 1 for i in range(rank)]
    scaled = _of_rank(linear, rank).times(factor.reshape(shape))
    made = scaled and scaled.plus(Linear((), addend.reshape(shape)))
    return None if made is None else [made, mean, variance]


@rule("astype")
def _astype(r: Rewriter, call: Call) -> Value | None:
    same = str(call.attrs.dtype) == "float32"
    value = r.value(call.args[0])
    return value if same and not (isinstance(value, Mapped) and value.real.dtype == np.bool_) else None


@rule("where")
def _where(r: Rewriter, call: Call) -> Value | None:
    parts = _of_one_root(r, list(call.args))
    if parts is not None:
        return _mapped(np.where, parts)
    return choices.chosen(r, call.args[0], [r.value(arg) for arg in call.args[1:]])


@rule("logical_not")
def _not(r: Rewriter, call: Call) -> Value | None:
    mapped = mapped_of(r.value(call.args[0]))
    return mapped and _mapped(np.logical_not, [mapped])


@rule(*BINARY)
def _binary(r: Rewriter, call: Call) -> Value | None:
    name, args = operator_of(call), operands_of(call)
    scaled = _scaled(r, name, args)
    if scaled is not None:
        return scaled
    linear = _linear(r, name, args, call)
    parts = _of_one_root(r, args)
    if parts is not None:
        return _mapped(BINARY[name], parts, linear if isinstance(linear, Linear) else None)
    return linear


def _scaled(r: Rewriter, name: str, args: list[Expr]) -> Coded | None:
    """A tensor times a positive number: the same integers on a wider or narrower grid."""
    value, factor = r.value(args[0]), r.array(args[1])
    if name == "multiply" and not isinstance(value, Coded):
        value, factor = r.value(args[1]), r.array(args[0])
    if name not in ("multiply", "divide") or not isinstance(value, Coded) or value.array is not None:
        return None
    number = float(factor.reshape(())) if factor is not None and factor.size == 1 else 0.0
    if not 0 < number < np.inf:
        return None
    scale = value.scale * number if name == "multiply" else value.scale / number
    return replace(value, scale=np.asarray(scale))


def _of_one_root(r: Rewriter, args: list[Expr]) -> list[Mapped | Array] | None:
    """Operands that are all functions of the same 8-bit codes, or numbers."""
    parts: list[Mapped | Array] = []
    roots = []
    for arg in args:
        array = r.array(arg)
        if array is not None and array.size == 1:
            parts.append(array.reshape(()))
            continue
        mapped = mapped_of(r.value(arg))
        if mapped is None or array is not None:
            return None
        roots.append(mapped.root)
        parts.append(mapped)
    same = bool(roots) and all(root.same_as(roots[0]) for root in roots[1:])
    return parts if same else None


def _mapped(function: Function, parts: list[Mapped | Array], linear: Linear | None = None) -> Mapped:
    with np.errstate(all="ignore"):
        real = np.asarray(function(*(p.real if isinstance(p, Mapped) else p for p in parts)))
    root = next(p.root for p in parts if isinstance(p, Mapped))
    return Mapped(root, in_float32(real), linear)


def _linear(r: Rewriter, name: str, args: list[Expr], call: Call) -> Value | None:
    """The result by integer arithmetic; None where that has no form for it."""
    arrays = [r.array(arg) for arg in args]
    values = [array if array is not None else r.value(arg) for array, arg in zip(arrays, args, strict=True)]
    if any(value is None for value in values):
        return None
    rank = int(call.ty.ndim)
    if name in ("add", "subtract"):
        return _sum(values, rank, negative=name == "subtract")
    if name in ("multiply", "divide"):
        return _product(r, values, arrays, rank, divide=name == "divide")
    if name in ("maximum", "minimum"):
        return _extreme(r, name, values, arrays, call)
    return None


def _sum(values: list[Value | None], rank: int, *, negative: bool) -> Linear | None:
    first, second = (linear_of(value) for value in values)
    if first is None or second is None:
        return None
    if negative:
        flipped = second.times(np.asarray(-1.0))
        if flipped is None:
            return None
        second = flipped
    made = _of_rank(first, rank).plus(_of_rank(second, rank))
    return made if made is not None and made.terms else None


def _of_rank(value: Linear, rank: int) -> Linear:
    """The value with factors that broadcast against a tensor of a rank."""
    terms = tuple(replace(t, shift=_full(t.shift, rank), factor=_full(t.factor, rank)) for t in value.terms)
    return replace(value, terms=terms, offset=_full(value.offset, rank))


def _full(array: Array, rank: int) -> Array:
    return array.reshape(()) if array.size == 1 else array.reshape((1,) * (rank - array.ndim) + array.shape)


def _product(
    r: Rewriter, values: list[Value | None], arrays: list[Array | None], rank: int, *, divide: bool
) -> Value | None:
    constants = [array is not None for array in arrays]
    if any(constants) and not all(constants):
        array, other = (arrays[0], values[1]) if constants[0] else (arrays[1], values[0])
        assert array is not None
        linear = linear_of(other)
        if linear is None or (divide and constants[0]):
            return None
        with np.errstate(all="ignore"):
            factor = _full(1 / array if divide else array, rank)
        return _of_rank(linear, rank).times(factor) if np.isfinite(factor).all() else None
    a, b = values
    if divide or not (isinstance(a, Coded) and isinstance(b, Coded)):
        return None
    return _product_of_codes(r, a, b)


def _product_of_codes(r: Rewriter, a: Coded, b: Coded) -> Value | None:
    """The product of two computed tensors: exact in int32 for bytes."""
    if not all(one.dtype in STORED and one.per_tensor and one.array is None for one in (a, b)):
        return None
    limits = [max(abs(int(e) - int(one.zero.reshape(()))) for e in _ends(one)) for one in (a, b)]
    if float(limits[0]) * float(limits[1]) > INT32:
        return None
    data = r.emit(relax.op.multiply(_centred(r, a), _centred(r, b)))
    factor = a.scale.reshape(()) * b.scale.reshape(())
    return Linear((Term(data, np.zeros((), np.int64), factor, float(limits[0] * limits[1])),), np.zeros(()))


def _ends(value: Coded) -> tuple[int, int]:
    info = np.iinfo(value.dtype)
    return int(info.min), int(info.max)


def _centred(r: Rewriter, value: Coded) -> Expr:
    wide = r.widened(value.data, "int32")
    zero = value.zero.reshape(())
    return r.emit(relax.op.subtract(wide, constant(zero.astype(np.int32)))) if zero else wide


def _extreme(
    r: Rewriter, name: str, values: list[Value | None], arrays: list[Array | None], call: Call
) -> Value | None:
    for array, other in ((arrays[0], values[1]), (arrays[1], values[0])):
        if array is not None and array.size == 1:
            linear, limit = linear_of(other), float(array.reshape(()))
            if linear is None or not linear.terms:
                return None
            return linear.within(limit, np.inf) if name == "maximum" else linear.within(-np.inf, limit)
    a, b = values
    if not (isinstance(a, Coded) and isinstance(b, Coded)) or not a.same_grid(b):
        return choices.extreme(r, name, values)
    operator = relax.op.maximum if name == "maximum" else relax.op.minimum
    return Coded(r.emit(operator(a.data, b.data)), a.scale, a.zero)
