"""Tensors of a network in half precision, for processors with arithmetic on whole vectors of float16.

Convolutions and products with constant weights read and write float16, and so does what moves, adds, scales or limits
their results: a vector holds twice as many of them, and they take half of the memory. Functions (exponentials,
divisions, normalisation) and sums of many elements (averages) are computed in float32, the casts being part of the
kernels around them.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import tvm
from tvm import relax
from tvm.ir import Call

from edgec.compiler.backends.interface import OperandsOf
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
from edgec.compiler.graph.sources import node_of
from edgec.compiler.operands.operands import FLOAT16

HALF, WIDE = "float16", "float32"
MOST_TAPS = 64  # products that are added up in half precision
# What follows an operand in half precision.
FOLLOWING = frozenset({
    "add", "subtract", "multiply", "maximum", "minimum", "nn.relu", "nn.relu6", "nn.leakyrelu", "nn.prelu", "clip",
    "abs", "negative", "concat", "strided_slice", "take", "nn.pad", "nn.max_pool2d", "reshape", "squeeze",
    "expand_dims", "permute_dims", "nn.batch_flatten",
})  # fmt: skip
_LARGEST = float(np.finfo(np.float16).max)
_SMALLEST = float(np.finfo(np.float16).smallest_normal)


def in_half_precision(mod: tvm.IRModule, operands_of: OperandsOf) -> tvm.IRModule | None:
    """`mod` with the nodes that multiply halves, and what follows them, in half precision; None where there are none.

    A model with products of 8-bit integers stays as it is: their blocks of channels are as long as vectors of int32.

    Args:
        mod: static NCHW operators.
        operands_of: chooses what each source node multiplies.
    """
    bindings = [
        b for block in mod["main"].body.blocks for b in block.bindings if op_name(b.value) in _PRODUCTS
    ]
    if any(is_tensor(b.var) and not dtype_of(b.var).startswith("float") for b in bindings):
        return None
    walker = _Halved(mod, operands_of)
    made = walker.run()
    return made if walker.halved else None


class _Halved(Walker):
    """Each result in half precision has a float32 copy for those who need one: unread copies are dropped."""

    def __init__(self, mod: tvm.IRModule, operands_of: OperandsOf) -> None:
        super().__init__(mod)
        self.operands_of = operands_of
        self.halves: dict[Expr, Expr] = {}
        self.halved = 0

    def visit(self, var: relax.Var, call: Call) -> Expr:
        """The float32 copy of a call that became one in half precision; any other call as it is."""
        if not is_tensor(var) or dtype_of(var) != WIDE:
            return call
        made = self._product(call)
        if made is None:
            made = self._following(call)
        if made is None:
            return call
        half = self.emit(made)
        wide = self.emit(relax.op.astype(half, WIDE))
        self.halves[wide] = half
        return wide

    def _product(self, call: Call) -> Expr | None:
        """A convolution or product with constant weights, in half precision."""
        make = _PRODUCTS.get(op_name(call))
        if make is None or self.operands_of(node_of(self.name)) != FLOAT16:
            return None
        weight = array_of(call.args[1])
        if weight is None or not _representable(weight):
            return None
        made = make(call, weight, self._half(call.args[0]))
        self.halved += made is not None
        return made

    def _following(self, call: Call) -> Expr | None:
        """An operator on tensors of which one is in half precision."""
        nearest = op_name(call) == "image.resize2d" and str(call.attrs.method) == "nearest_neighbor"
        if op_name(call) not in FOLLOWING and not nearest:
            return None
        tensors = [one for arg in call.args for one in getattr(arg, "fields", [arg]) if _is_wide(one)]
        if not any(one in self.halves for one in tensors):
            return None
        if any(not _representable(array) for one in tensors if (array := array_of(one)) is not None):
            return None
        return Call(call.op, [self._narrowed(arg) for arg in call.args], call.attrs, call.ty_args)

    def _narrowed(self, arg: Expr) -> Expr:
        """An argument, its float32 tensors in half precision; numbers, such as the ends of slices, stay as they are."""
        if isinstance(arg, relax.Tuple):
            return relax.Tuple([self._narrowed(field) for field in arg.fields])
        return self._half(arg) if _is_wide(arg) else arg

    def _half(self, expr: Expr) -> Expr:
        array = array_of(expr)
        if array is not None:
            return constant(array.astype(np.float16))
        if expr not in self.halves:
            self.halves[expr] = self.emit(relax.op.astype(expr, HALF))
        return self.halves[expr]


def _is_wide(expr: Expr) -> bool:
    return is_tensor(expr) and dtype_of(expr) == WIDE


def _representable(array: Array) -> bool:
    """Whether constants keep their size in half precision: none is infinite there, and not all of them vanish."""
    largest = float(np.abs(array).max(initial=0.0))
    return largest <= _LARGEST and (largest == 0.0 or largest >= _SMALLEST)


def _convolution(call: Call, weight: Array, data: Expr) -> Expr | None:
    attrs, groups = call.attrs, int(call.attrs.groups)
    if attrs.data_layout != "NCHW" or weight.ndim != 4:
        return None
    depthwise = groups > 1 and groups == shape_of(data)[1] == weight.shape[0]
    if depthwise and math.prod(weight.shape[2:]) > MOST_TAPS:
        return None
    return relax.op.nn.conv2d(
        data,
        constant(weight.astype(np.float16)),
        strides=list(attrs.strides),
        padding=list(attrs.padding),
        dilation=list(attrs.dilation),
        groups=groups,
        out_dtype=HALF,
    )


def _matmul(call: Call, weight: Array, data: Expr) -> Expr | None:
    if weight.ndim != 2 or not shape_of(data):
        return None
    return relax.op.matmul(data, constant(weight.astype(np.float16)), out_dtype=HALF)


_PRODUCTS: dict[str, Callable[[Call, Array, Expr], Expr | None]] = {
    "nn.conv2d": _convolution,
    "matmul": _matmul,
}
