"""Bit operations on integers: shifts, and reinterpretation as another type."""

from __future__ import annotations

import math

import numpy as np
import onnx
from tvm import relax

from edgec.compiler.frontends.relax.builder import Expr
from edgec.compiler.frontends.relax.converters.casts import NARROW
from edgec.compiler.frontends.relax.converters.registry import (
    CannotConvert,
    Node,
    converts,
    dtype_of,
    reshaped,
    scalar,
)
from edgec.compiler.kernels.reinterpret import reinterpreted, reinterpreted_element


@converts("BitShift")
def _bit_shift(node: Node) -> Expr:
    """Shifts by at least the type's width, or by a negative number, leave no bit (or only the sign)."""
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
    if int(node.attrs["to"]) in NARROW:
        return _unsupported("a type of 8 bits or fewer, or bfloat16")
    to = str(onnx.helper.tensor_dtype_to_np_dtype(int(node.attrs["to"])))
    if np.dtype(to).itemsize != np.dtype(dtype_of(x)).itemsize or "complex" in to:
        raise CannotConvert(f"the bits of {dtype_of(x)} are not those of {to}")
    if dtype_of(x) == "bool":  # in memory a whole byte, 0 or 1
        return relax.op.astype(x, to) if to == "uint8" else _unsupported(to)
    if to == "bool":
        return _unsupported(to)
    size = math.prod(shape)
    if size == 1:
        one = node.emit(reshaped(x, [1]))
        return reshaped(node.builder.emit_te(reinterpreted_element, one, to), shape)
    symbol = node.builder.get_unique_name("bitcast")
    function = node.builder.add_func(reinterpreted(symbol, size, dtype_of(x), to), symbol)
    flat = node.emit(reshaped(x, [size]))
    return reshaped(node.emit(relax.call_tir(function, [flat], relax.TensorType((size,), to))), shape)


def _unsupported(to: str) -> Expr:
    raise CannotConvert(f"bits are not reinterpreted as {to}")
