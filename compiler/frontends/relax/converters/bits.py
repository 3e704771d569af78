"""Operators on whole numbers and their bits: shifts, remainders, and the same bits as another type."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import onnx
from tvm import relax, te, tirx
from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as T
from tvm.tirx import PrimFunc

from edgec.compiler.frontends.relax.builder import Expr, constant
from edgec.compiler.frontends.relax.converters.registry import (
    Decline,
    Node,
    Refusal,
    converts,
    dtype_of,
    reshaped,
    scalar,
    shape_of,
)


@converts("BitShift")
def _bit_shift(node: Node) -> Expr:
    """Shifts by the type's width or more leave no bit (or only the sign); those by less than none do too."""
    x, y, kind = node.input(0), node.input(1), node.dtype(0)
    width = np.dtype(kind).itemsize * 8
    inside = relax.op.less(y, scalar(width, y))
    if not kind.startswith("uint"):
        inside = relax.op.logical_and(inside, relax.op.greater_equal(y, scalar(0, y)))
    inside = node.emit(inside)
    left = str(node.attrs.get("direction", "")).upper() == "LEFT"
    by = node.emit(relax.op.where(inside, y, scalar(0 if left else width - 1, y)))
    if left:
        shifted = node.emit(relax.op.left_shift(x, by))
        return relax.op.where(inside, shifted, scalar(0, x))
    shifted = node.emit(relax.op.right_shift(x, by))
    return relax.op.where(inside, shifted, scalar(0, x)) if kind.startswith("uint") else shifted


@converts("BitCast")
def _bit_cast(node: Node) -> Expr:
    x, shape = node.input(0), node.shape(0)
    to = str(onnx.helper.tensor_dtype_to_np_dtype(int(node.attrs["to"])))
    if np.dtype(to).itemsize != np.dtype(dtype_of(x)).itemsize or "complex" in to:
        raise Refusal(f"the bits of {dtype_of(x)} are not those of {to}")
    if dtype_of(x) == "bool":  # in memory a whole byte, 0 or 1
        return relax.op.astype(x, to) if to == "uint8" else _unsupported(to)
    if to == "bool":
        return _unsupported(to)
    size = math.prod(shape)
    if size == 1:  # TVM's script takes a buffer of one element for a scalar
        one = node.emit(reshaped(x, [1]))
        bits = node.builder.emit_te(
            lambda a: te.compute((1,), lambda i: tirx.reinterpret(to, a(i)), name="bits"), one
        )
        return reshaped(bits, shape)
    symbol = node.builder.get_unique_name("bitcast")
    function = node.builder.add_func(_reinterpreted(symbol, size, dtype_of(x), to), symbol)
    flat = node.emit(reshaped(x, [size]))
    return reshaped(node.emit(relax.call_tir(function, [flat], relax.TensorType((size,), to))), shape)


def _unsupported(to: str) -> Expr:
    raise Refusal(f"bits are not looked at as {to}")


def _reinterpreted(symbol: str, size: int, kind: str, to: str) -> PrimFunc:
    with IRBuilder() as builder, T.prim_func():
        T.func_name(symbol)
        T.func_attr({"tirx.is_scheduled": True, "tirx.noalias": True})
        x = T.arg("x", T.buffer((size,), kind))
        y = T.arg("y", T.buffer((size,), to))
        with T.sblock("root"), T.sblock("bits"):
            T.reads(x[0:size])
            T.writes(y[0:size])
            with T.serial(0, size) as i:
                T.buffer_store(y, T.reinterpret(to, x[i]), [i])
    return builder.get()


@converts("Mod")
def _mod(node: Node) -> Expr:
    """The remainder with the sign of the dividend (``fmod``) or of the divisor, as numpy's."""
    a, b, by_dividend = node.input(0), node.input(1), bool(node.attrs.get("fmod", 0))
    kind = node.dtype(0)
    if not kind.startswith("float"):
        return node.builder.emit_te(_pairwise(tirx.truncmod if by_dividend else tirx.floormod), a, b)
    # fp64 holds the quotients of fp32 numbers whole, where they are below 2^53
    a, b = (x if kind == "float64" else node.emit(relax.op.astype(x, "float64")) for x in (a, b))
    times = node.emit(relax.op.trunc(node.emit(relax.op.divide(a, b))))
    rest = node.emit(relax.op.subtract(a, relax.op.multiply(times, b)))
    rest = node.emit(relax.op.where(relax.op.logical_and(relax.op.isinf(b), relax.op.isfinite(a)), a, rest))
    if not by_dividend:
        zero = scalar(0, rest)
        other = relax.op.logical_xor(relax.op.less(b, zero), relax.op.less(rest, zero))
        off = node.emit(relax.op.logical_and(relax.op.not_equal(rest, zero), other))
        rest = node.emit(relax.op.where(off, relax.op.add(rest, b), rest))
    return rest if kind == "float64" else relax.op.astype(rest, kind)


def _pairwise(function: Callable[[Expr, Expr], Expr]) -> Callable[[Expr, Expr], Expr]:
    """Element by element with broadcasting."""

    def compute(a: Expr, b: Expr) -> Expr:
        shape = np.broadcast_shapes(tuple(map(int, a.shape)), tuple(map(int, b.shape)))

        def at(x: Expr, place: tuple[Expr, ...]) -> Expr:
            own = place[len(place) - len(x.shape) :]
            return x(
                *[tirx.const(0, "int64") if int(n) == 1 else i for n, i in zip(x.shape, own, strict=True)]
            )

        return te.compute(shape, lambda *place: function(at(a, place), at(b, place)), name="remainder")

    return compute


@converts("EyeLike")
def _eye_like(node: Node) -> Expr:
    rows, columns = shape_of(node.input(0))
    kind = node.attrs.get("dtype")
    dtype = str(onnx.helper.tensor_dtype_to_np_dtype(int(kind))) if kind else node.dtype(0)
    return constant(np.eye(rows, columns, k=int(node.attrs.get("k", 0)), dtype=dtype))


@converts("ReduceMax", "ReduceMin")
def _extreme(node: Node) -> Expr:
    x, rank = node.input(0), len(node.shape(0))
    axes = node.ints("axes", 1)
    if not axes and node.attrs.get("noop_with_empty_axes", 0):
        return x
    chosen = [a % rank for a in axes] if axes else list(range(rank))
    wide = node.emit(relax.op.astype(x, "uint8")) if dtype_of(x) == "bool" else x
    keeps, largest = bool(node.attrs.get("keepdims", 1)), node.op_type == "ReduceMax"
    if "float" in dtype_of(x) and rank:
        return node.builder.emit_te(_extreme_of_reals(chosen, keeps=keeps, largest=largest), wide)
    reduce = relax.op.max if largest else relax.op.min
    result = reduce(wide, axis=chosen, keepdims=keeps) if rank else wide
    return relax.op.astype(node.emit(result), "bool") if dtype_of(x) == "bool" else result


def extreme_reducer(*, largest: bool) -> Expr:
    """An extreme that may be infinite: TVM's own begins with the largest number, where nothing but masks is left."""
    extreme, start = (tirx.max, -math.inf) if largest else (tirx.min, math.inf)
    return te.comm_reducer(lambda a, b: extreme(a, b), lambda dtype: tirx.const(start, dtype), name="extreme")


def _extreme_of_reals(axes: list[int], *, keeps: bool, largest: bool) -> Callable[[Expr], Expr]:
    reducer = extreme_reducer(largest=largest)

    def compute(x: Expr) -> Expr:
        sizes = [int(size) for size in x.shape]
        along = {a: te.reduce_axis((0, sizes[a]), name=f"k{a}") for a in axes}
        kept = [a for a in range(len(sizes)) if keeps or a not in along]
        shape = [1 if a in along else sizes[a] for a in kept]

        def element(*place: Expr) -> Expr:
            at = dict(zip(kept, place, strict=True)) | along
            return reducer(x(*[at[a] for a in range(len(sizes))]), axis=list(along.values()))

        return te.compute(shape, element, name="extreme")

    return compute


@converts("TopK")
def _top_k(node: Node) -> Expr | list[Expr]:
    """Unsigned 64-bit integers are sorted as signed ones of the same order: 2^63 less."""
    if node.dtype(0) != "uint64":
        raise Decline
    count = node.array(1)
    if count is None:
        raise Refusal("it names no number of elements")
    least = constant(np.array(-(1 << 63), "int64"))
    signed = node.emit(relax.op.bitwise_xor(node.emit(relax.op.astype(node.input(0), "int64")), least))
    axis, largest = int(node.attrs.get("axis", -1)), bool(node.attrs.get("largest", 1))
    found = node.emit(relax.op.topk(signed, int(count.reshape(-1)[0]), axis, "both", largest, "int64"))
    values = node.emit(relax.op.bitwise_xor(relax.TupleGetItem(found, 0), least))
    return [relax.op.astype(values, "uint64"), relax.TupleGetItem(found, 1)]
