"""Products and convolutions whose operands are rounded for tensor cores, with channels innermost."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import tvm
from tvm import relax
from tvm.ir import Call

from edgec.compiler.backends.interface import OperandsOf
from edgec.compiler.graph.attention_compute import attention, described
from edgec.compiler.graph.attention_spec import AttentionSpec, AttentionTypes
from edgec.compiler.graph.rewrite import (
    Expr,
    Walker,
    array_of,
    constant,
    dtype_of,
    is_tensor,
    leaves,
    map_leaves,
    op_name,
    shape_of,
)
from edgec.compiler.graph.sources import node_of
from edgec.compiler.operands.operands import FLOAT32, TF32, Operands, numpy_dtype

_PRODUCTS = ("nn.conv2d", "matmul")
# What only moves elements, of its first operand.
_MOVES = (
    "reshape",
    "permute_dims",
    "squeeze",
    "expand_dims",
    "strided_slice",
    "concat",
    "broadcast_to",
    "flip",
)
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
        attention = described(self.mod[call.args[0]]) if op_name(call) == "call_tir" else None
        if attention is not None and operands.data != FLOAT32.data:
            return self._attention(call, *attention, operands.data)
        if op_name(call) in _MOVES and (moved := self._moved(call)) is not None:
            return moved
        if op_name(call) == "nn.conv2d" and _runs_on_tensor_cores(call, operands):
            self.convolutions += 1
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

    def _attention(self, call: Call, spec: AttentionSpec, types: AttentionTypes, dtype: str) -> Expr:
        """Attention of rounded operands, whose result is rounded, too."""
        *given, mask = [*call.args[1].fields] if spec.mask else [*call.args[1].fields, None]
        kernel = attention(spec, replace(types, operands=dtype, result=dtype))
        args = [self._round(one, dtype) for one in given] + (
            [self._as_stored(mask)] if mask is not None else []
        )
        out = relax.TensorType(list(spec.out_shape), dtype)
        gv = self.builder.add_func(kernel, "attention")
        return self._widen(self.emit(relax.call_tir(gv, args, out_ty=out)))

    def _moved(self, call: Call) -> Expr | None:
        """What only moves elements moves those of two bytes, where there are such."""
        sources = list(leaves(call.args[0]))
        dtypes = {dtype for source, dtype in self._rounded if source in sources}
        for dtype in dtypes:
            narrow = [
                self._rounded.get((one, dtype)) if isinstance(one, relax.Var) else None for one in sources
            ]
            if all(one is not None for one in narrow):
                return self._widen(self.emit(_on(call, dict(zip(sources, narrow, strict=True)))))
        return None

    def _widen(self, narrow: Expr) -> Expr:
        """The same value in fp32, which is rounded already."""
        wide = self.emit(relax.op.astype(narrow, "float32"))
        self._rounded[wide, dtype_of(narrow)] = narrow
        self._widened[wide] = wide
        return wide

    def _as_stored(self, leaf: Expr) -> Expr:
        return self._widened.get(leaf, leaf) if isinstance(leaf, relax.Var) else leaf

    def _round(self, operand: Expr, dtype: str) -> Expr:
        array = array_of(operand)
        if array is not None:
            return constant(array.astype(numpy_dtype(dtype)))
        if not isinstance(operand, relax.Var):
            return self.emit(relax.op.astype(operand, dtype))
        if (operand, dtype) not in self._rounded:
            value = self.builder.lookup_binding(operand)
            if op_name(value) in _MOVES and isinstance(value.args[0], relax.Var):
                rounded = self.emit(_on(value, {value.args[0]: self._round(value.args[0], dtype)}))
            else:
                rounded = self.emit(relax.op.astype(operand, dtype))
            self._rounded[operand, dtype] = rounded
            self._widened.setdefault(operand, self.emit(relax.op.astype(rounded, "float32")))
        return self._rounded[operand, dtype]


def _runs_on_tensor_cores(convolution: Call, operands: Operands) -> bool:
    """Whether tensor cores take a convolution's operands as they are in memory: tf32, and integers of one byte."""
    if operands == TF32 and dtype_of(convolution) == "float32":
        return True
    return all(dtype_of(one) in ("int8", "uint8") for one in convolution.args)


def _on(call: Call, operands: Mapping[Expr, Expr]) -> Call:
    """`call` with other operands; its type follows from theirs."""
    made = map_leaves(call, lambda leaf: operands.get(leaf, leaf))
    return Call(made.op, made.args, made.attrs, made.ty_args)


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
