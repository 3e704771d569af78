"""Products, convolutions, pools and normalisations as kernels to which fusion adds an epilogue: bias, activation."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import tvm
import tvm_ffi
from tvm import relax, te, topi
from tvm.ir import Call, GlobalVar

from edgec.compiler.backends.interface import OperandsOf
from edgec.compiler.graph.anchors import ANCHOR, encode
from edgec.compiler.graph.rewrite import (
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
from edgec.compiler.operands.operands import TF32

WINDOWS = ("nn.conv2d", "nn.max_pool2d", "nn.avg_pool2d")
NORMALISATIONS = (
    "nn.layer_norm",
    "nn.rms_norm",
    "nn.group_norm",
    "nn.instance_norm",
    "nn.softmax",
    "nn.log_softmax",
)
TF32_MARK = "tf32"  # in the specification of a product of fp32 that tensor cores may round
_PRODUCTS = ("nn.conv2d", "matmul")
_ANCHORS = (*WINDOWS, "matmul", *NORMALISATIONS)
_BINARY: dict[str, Callable[[te.Tensor, te.Tensor], te.Tensor]] = {
    "add": topi.add,
    "subtract": topi.subtract,
    "multiply": topi.multiply,
    "maximum": topi.maximum,
    "minimum": topi.minimum,
}


class Anchored(Walker):
    """Legalises the operators that take an epilogue and marks their kernels.

    Operators of two operands widen what is stored in two bytes by themselves: a residual costs no kernel of its own.
    """

    def __init__(self, mod: tvm.IRModule, operands_of: OperandsOf) -> None:
        super().__init__(mod)
        self._operands_of = operands_of
        self._narrow: dict[relax.Var, Expr] = {}
        self._kernels: dict[tuple[tvm_ffi.StructuralKey, bool], GlobalVar] = {}

    def bind(self, var: relax.Var, value: Expr) -> None:
        """Note which variables are widened copies."""
        super().bind(var, value)
        made = self.renamed[var]
        if op_name(value) == "astype" and is_tensor(value) and dtype_of(value) == "float32":
            source = self.resolve(value.args[0])
            if isinstance(made, relax.Var) and dtype_of(source) in ("float16", "bfloat16"):
                self._narrow[made] = source

    def visit(self, var: relax.Var, call: Call) -> Expr:
        """A call of a marked kernel where there is one; any other call as it is."""
        name = op_name(call)
        if not all(is_tensor(one) for one in call.args):
            return call
        if name in _ANCHORS:
            rounded = name in _PRODUCTS and self._operands_of(node_of(str(var.name))) == TF32
            return self._anchor(
                call, name, {TF32_MARK: True} if rounded and dtype_of(call) == "float32" else {}
            )
        if name in _BINARY and any(one in self._narrow for one in call.args if isinstance(one, relax.Var)):
            return self._mixed(call, name)
        return call

    def _anchor(self, call: Call, name: str, fields: Mapping[str, bool]) -> Expr:
        made = self.builder.normalize(call)
        columns = self._by_columns(made) if fields else None
        made = columns if columns is not None else made.op.get_attr("FLegalize")(self.builder, made)
        if op_name(made) != "call_tir":
            return made
        kernel = made.args[0]
        function = self.builder.get()[kernel]
        if function.attrs and ANCHOR in function.attrs:
            return made
        # Once marked, a kernel is not equal any more to what the next such operator is legalised to.
        known = self._kernels.setdefault((tvm_ffi.StructuralKey(function), bool(fields)), kernel)
        if known is kernel:
            self.builder.update_func(kernel, function.with_attr(ANCHOR, encode(name, fields)))
        return Call(made.op, [known, *made.args[1:]], made.attrs, made.ty_args, ret_ty=made.ty)

    def _by_columns(self, call: Call) -> Expr | None:
        """A product with constant weights that lie column by column.

        The hardware transposes elements of two bytes only, as it loads them.
        """
        weights = array_of(call.args[1]) if op_name(call) == "matmul" else None
        if weights is None or weights.ndim != 2 or len(shape_of(call.args[0])) < 2:
            return None
        out = shape_of(call)

        def compute(a: te.Tensor, w: te.Tensor) -> te.Tensor:
            k = te.reduce_axis((0, weights.shape[0]), "k")
            return te.compute(out, lambda *at: te.sum(a(*at[:-1], k) * w[at[-1], k], axis=k), name="product")

        return self.builder.call_te(compute, call.args[0], constant(weights.T), primfunc_name_hint="matmul")

    def _mixed(self, call: Call, name: str) -> Expr:
        operands = [self._narrow.get(one, one) if isinstance(one, relax.Var) else one for one in call.args]

        def compute(a: te.Tensor, b: te.Tensor) -> te.Tensor:
            return _BINARY[name](topi.cast(a, "float32"), topi.cast(b, "float32"))

        return self.builder.call_te(compute, *operands, primfunc_name_hint=name)
