"""Products and convolutions whose operands are rounded for tensor cores."""

from __future__ import annotations

import numpy as np
import tvm
from tvm import relax
from tvm.ir import Call

from edgec.compiler.backends.interface import OperandsOf
from edgec.compiler.graph.rewrite import Expr, Walker, array_of, dtype_of, op_name
from edgec.compiler.graph.sources import node_of
from edgec.compiler.operands.operands import FLOAT32, numpy_dtype

_PRODUCTS = ("nn.conv2d", "matmul")


class _Rounder(Walker):
    """Rounds the operands of products; sums stay fp32."""

    def __init__(self, mod: tvm.IRModule, operands_of: OperandsOf) -> None:
        super().__init__(mod)
        self._operands_of = operands_of

    def visit(self, var: relax.Var, call: Call) -> Expr:
        """A product with rounded operands; any other call as it is."""
        if op_name(call) not in _PRODUCTS or any(dtype_of(one) != "float32" for one in call.args):
            return call
        operands = self._operands_of(node_of(str(var.name)))
        if operands.data == FLOAT32.data:
            return call
        a, b = (self._rounded(one, operands.data) for one in call.args)
        if op_name(call) == "matmul":
            return relax.op.matmul(a, b, out_dtype="float32")
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

    def _rounded(self, operand: Expr, dtype: str) -> Expr:
        array = array_of(operand)
        if array is not None:
            rounded = np.asarray(array).astype(numpy_dtype(dtype))
            return relax.const(tvm.runtime.tensor(rounded), dtype)
        return self.emit(relax.op.astype(operand, dtype))


def round_operands(mod: tvm.IRModule, operands_of: OperandsOf) -> tvm.IRModule:
    """`mod` with the operands of its products in the types that `operands_of` names."""
    return _Rounder(mod, operands_of).run()
