"""Products and convolutions whose operands are rounded for tensor cores, with channels innermost."""

from __future__ import annotations

import tvm
from tvm import relax
from tvm.ir import Call

from edgec.compiler.backends.interface import OperandsOf
from edgec.compiler.graph.rewrite import (
    Expr,
    Walker,
    array_of,
    constant,
    dtype_of,
    is_tensor,
    map_leaves,
    op_name,
    shape_of,
)
from edgec.compiler.graph.sources import node_of
from edgec.compiler.operands.operands import FLOAT32, numpy_dtype

_PRODUCTS = ("nn.conv2d", "matmul")
_ELEMENTWISE = ("add", "subtract", "multiply", "divide", "maximum", "minimum", "power")


class _Rounder(Walker):
    """Rounds the operands of products; sums stay fp32.

    Everything that reads a value after it was rounded for a product reads the rounded one, so that memory holds it
    once, in two bytes an element.
    """

    def __init__(self, mod: tvm.IRModule, operands_of: OperandsOf) -> None:
        super().__init__(mod)
        self._operands_of = operands_of
        self._rounded: dict[tuple[relax.Var, str], relax.Var] = {}
        self._widened: dict[relax.Var, relax.Var] = {}
        self.convolutions = 0

    def visit(self, var: relax.Var, call: Call) -> Expr:
        """A product with rounded operands; any other call with what was rounded before, widened again."""
        operands = self._operands_of(node_of(str(var.name)))
        if (
            op_name(call) not in _PRODUCTS
            or operands.data == FLOAT32.data
            or any(dtype_of(one) != "float32" for one in call.args)
        ):
            stored = map_leaves(call, self._as_stored)
            return _with_axes(stored) if op_name(call) in _ELEMENTWISE else stored
        a, b = (self._round(one, operands.data) for one in call.args)
        if op_name(call) == "matmul":
            return relax.op.matmul(a, b, out_dtype="float32")
        self.convolutions += 1
        attrs = call.attrs
        return relax.op.nn.conv2d(
            a,
            b,
            strides=list(attrs.strides),
            padding=list(attrs.padding),
            dilation=list(attrs.dilation),
            groups=int(attrs.groups),
            data_layout=str(attrs.data_layout),
            kernel_layout=str(attrs.kernel_layout),
            out_dtype="float32",
        )

    def _as_stored(self, leaf: Expr) -> Expr:
        return self._widened.get(leaf, leaf) if isinstance(leaf, relax.Var) else leaf

    def _round(self, operand: Expr, dtype: str) -> Expr:
        array = array_of(operand)
        if array is not None:
            return constant(array.astype(numpy_dtype(dtype)))
        if not isinstance(operand, relax.Var):
            return self.emit(relax.op.astype(operand, dtype))
        if (operand, dtype) not in self._rounded:
            rounded = self.emit(relax.op.astype(operand, dtype))
            self._rounded[operand, dtype] = rounded
            self._widened.setdefault(operand, self.emit(relax.op.astype(rounded, "float32")))
        return self._rounded[operand, dtype]


def _with_axes(call: Call) -> Expr:
    """A constant beside a tensor gets as many axes, so that layouts pass through the operator."""
    if len(call.args) != 2 or not all(is_tensor(one) for one in (*call.args, call)):
        return call
    axes = len(shape_of(call))

    def widened(one: Expr) -> Expr:
        array = array_of(one)
        if array is None or array.ndim >= axes:
            return one
        return constant(array.reshape((1,) * (axes - array.ndim) + array.shape))

    return Call(call.op, [widened(one) for one in call.args], call.attrs, call.ty_args, ret_ty=call.ty)


def round_operands(mod: tvm.IRModule, operands_of: OperandsOf) -> tvm.IRModule:
    """`mod` with the operands of its products in the types that `operands_of` names.

    Convolutions for tensor cores take channels innermost then, so that the terms of a sum lie side by side; transposes
    remain where planar data comes in and goes out, and between them layouts follow the convolutions.
    """
    rounder = _Rounder(mod, operands_of)
    mod = rounder.run()
    if not rounder.convolutions:
        return mod
    innermost = {"relax.nn.conv2d": ["NHWC", "OHWI", "NHWC"]}
    passes = [relax.transform.ConvertLayout(innermost), relax.transform.FoldConstant()]
    try:
        return tvm.transform.Sequential(passes)(mod)
    except tvm.error.InternalError:
        return mod  # an operator between convolutions whose layout TVM cannot infer: planar, as it is
