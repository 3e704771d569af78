"""What the operators mean that the rewriting to integers emits, in numpy: integers wrap nowhere, or the test fails."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import tvm
from tvm import relax

from edgec.compiler.graph.rewrite import array_of, dtype_of, op_name, shape_of

Array = np.ndarray


def run(mod: tvm.IRModule, *inputs: Array) -> Any:
    """The result of `main`."""
    function = mod["main"]
    known: dict[Any, Any] = dict(zip(function.params, inputs, strict=True))
    for block in function.body.blocks:
        for binding in block.bindings:
            known[binding.var] = _value(mod, binding.value, known)
    return _value(mod, function.body.body, known)


def _value(mod: tvm.IRModule, expr: Any, known: dict[Any, Any]) -> Any:
    if isinstance(expr, relax.Var):
        return known[expr]
    if array_of(expr) is not None:
        return array_of(expr)
    if isinstance(expr, tvm.ir.Tuple):
        return [_value(mod, field, known) for field in expr.fields]
    if isinstance(expr, tvm.ir.TupleGetItem):
        return _value(mod, expr.tuple_value, known)[expr.index]
    if not isinstance(expr, tvm.ir.Call):
        return expr
    args = [_value(mod, arg, known) for arg in expr.args]
    if op_name(expr) == "call_tir":
        return _kernel(mod, expr, known)
    made = OPERATORS[op_name(expr)](expr, *args)
    if isinstance(made, list):
        return made
    result = np.asarray(made)
    assert result.shape == shape_of(expr), (op_name(expr), result.shape, shape_of(expr))
    if result.dtype.kind == "i" and "int" in dtype_of(expr):
        limits = np.iinfo(dtype_of(expr))
        assert result.size == 0 or (limits.min <= result.min() and result.max() <= limits.max), op_name(expr)
    return result.astype(dtype_of(expr))


def _kernel(mod: tvm.IRModule, call: Any, known: dict[Any, Any]) -> Array:
    """A kernel that a converter wrote, compiled."""
    args = [_value(mod, arg, known) for arg in call.args[1].fields]
    built = tvm.compile(tvm.IRModule({"main": mod[call.args[0]].with_attr("global_symbol", "main")}), "llvm")
    out = tvm.runtime.empty(shape_of(call), dtype_of(call))
    built["main"](*[tvm.runtime.tensor(np.ascontiguousarray(a)) for a in args], out)
    return np.asarray(out.numpy())


def _wide(x: Array) -> Array:
    return x.astype(np.int64) if x.dtype.kind in "iu" else x


def _conv2d(call: Any, x: Array, w: Array) -> Array:
    a = call.attrs
    top, left, bottom, right = (int(p) for p in a.padding)
    x = np.pad(_wide(x), ((0, 0), (0, 0), (top, bottom), (left, right)))
    w, (_, out, height, width) = _wide(w), shape_of(call)
    per_group, total = w.shape[1], np.zeros(shape_of(call), np.result_type(_wide(x), _wide(w)))
    for g, (i, j) in itertools.product(range(int(a.groups)), itertools.product(*map(range, w.shape[2:]))):
        rows, columns = (
            slice(at * int(d), at * int(d) + (size - 1) * int(s) + 1, int(s))
            for at, d, size, s in zip((i, j), a.dilation, (height, width), a.strides, strict=True)
        )
        channels = slice(g * per_group, (g + 1) * per_group)
        filters = slice(g * (out // int(a.groups)), (g + 1) * (out // int(a.groups)))
        total[:, filters] += np.einsum("nchw,oc->nohw", x[:, channels, rows, columns], w[filters, :, i, j])
    return total


def _pad(call: Any, x: Array, *_: Any) -> Array:
    widths = np.asarray([int(w) for w in call.attrs.pad_width]).reshape(-1, 2)
    return np.pad(x, widths, constant_values=np.asarray(call.attrs.pad_value).astype(x.dtype))


def _max_pool2d(call: Any, x: Array) -> Array:
    a, out = call.attrs, shape_of(call)
    top, left, bottom, right = (int(p) for p in a.padding)
    least = -np.inf if x.dtype.kind == "f" else np.iinfo(x.dtype).min
    x = np.pad(x, ((0, 0), (0, 0), (top, bottom), (left, right)), constant_values=least)
    parts = [
        x[:, :, i : i + (out[2] - 1) * int(a.strides[0]) + 1 : int(a.strides[0]),
          j : j + (out[3] - 1) * int(a.strides[1]) + 1 : int(a.strides[1])]
        for i, j in itertools.product(*[range(int(k)) for k in a.pool_size])
    ]  # fmt: skip
    return np.max(parts, axis=0)


def _axes(call: Any) -> tuple[int, ...] | None:
    return None if call.attrs.axis is None else tuple(int(a) for a in call.attrs.axis)


def _arithmetic(function: Callable[..., Array]) -> Callable[..., Array]:
    return lambda _call, a, b: function(_wide(a), _wide(b))


def _map(function: Callable[..., Array]) -> Callable[..., Array]:
    return lambda _call, x: function(x)


OPERATORS: dict[str, Callable[..., Any]] = {
    "nn.conv2d": _conv2d, "nn.pad": _pad, "nn.max_pool2d": _max_pool2d,
    "matmul": lambda _call, a, b: _wide(a) @ _wide(b),
    "add": _arithmetic(np.add), "subtract": _arithmetic(np.subtract), "multiply": _arithmetic(np.multiply),
    "divide": _arithmetic(np.divide), "maximum": _arithmetic(np.maximum), "minimum": _arithmetic(np.minimum),
    "right_shift": _arithmetic(np.right_shift),
    "astype": _map(lambda x: x), "round": _map(np.rint), "nn.relu": _map(lambda x: np.maximum(x, 0)),
    "exp": _map(np.exp), "sigmoid": _map(lambda x: 1 / (1 + np.exp(-x))), "tanh": _map(np.tanh),
    "take": lambda call, x, at: np.take(x, at, axis=int(call.attrs.axis)),
    "reshape": lambda call, x, *_: x.reshape(shape_of(call)),
    "permute_dims": lambda call, x: x.transpose([int(a) for a in call.attrs.axes]),
    "concat": lambda call, xs: np.concatenate(xs, axis=int(call.attrs.axis)),
    "sum": lambda call, x: _wide(x).sum(axis=_axes(call), keepdims=bool(call.attrs.keepdims)),
    "max": lambda call, x: x.max(axis=_axes(call), keepdims=bool(call.attrs.keepdims)),
    "where": lambda _call, c, a, b: np.where(c, a, b),
    "sqrt": _map(np.sqrt),
    "abs": lambda _call, x: np.abs(_wide(x)),
    "strided_slice": lambda call, x, axes, begin, end, *_: x[
        tuple(slice(int(begin[axes.index(i)]), int(end[axes.index(i)])) if i in axes else slice(None)
              for i in range(x.ndim))
    ],
    "repeat": lambda call, x: np.repeat(x, int(call.attrs.repeats), axis=int(call.attrs.axis)),
}  # fmt: skip
