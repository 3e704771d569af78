"""Products of flattened rows take the rows as they were, so that what follows is in one shape and joins the product.

Exporters write a layer over `[batch, tokens, channels]` as a product of `[batch * tokens, channels]` between two
reshapes. A reshape ends a kernel: the activation or the residual behind it would be one of its own.
"""

from __future__ import annotations

import math

import tvm
from tvm import relax
from tvm.ir import Call

from edgec.compiler.graph.rewrite import Expr, Walker, array_of, constant, is_tensor, op_name, shape_of

_MAPS = ("add", "subtract", "multiply", "divide", "maximum", "minimum", "clip", "erf", "exp", "negative", "power",
         "nn.gelu", "nn.gelu_tanh", "nn.relu", "nn.silu", "sigmoid", "sqrt", "tanh")  # fmt: skip


def unflatten_rows(mod: tvm.IRModule) -> tvm.IRModule:
    """Apply the pass (see the module's docstring).

    Requires: `simplify` ran.
    Ensures: same values; reshapes of rows stand behind the maps that follow a product, where they meet the reshapes
    back and both are gone.
    """
    return _Unflatten(mod).run()


class _Unflatten(Walker):
    def __init__(self, mod: tvm.IRModule) -> None:
        super().__init__(mod)
        self._whole: dict[
            relax.Var, relax.Var
        ] = {}  # what a variable is a reshape of, with the same last axis

    def visit(self, var: relax.Var, call: Call) -> Expr:
        """The call on whole rows, reshaped; any other call as it is."""
        if not is_tensor(call) or not call.args or not all(is_tensor(one) for one in call.args[:1]):
            return call
        name = op_name(call)
        if name == "reshape":
            return self._reshape(call)
        if name == "matmul":
            return self._product(call)
        if name in _MAPS and all(is_tensor(one) for one in call.args if isinstance(one.ty, relax.TensorType)):
            return self._map(call)
        return call

    def _reshape(self, call: Call) -> Expr:
        source = call.args[0]
        if not isinstance(source, relax.Var):
            return call
        whole = self._whole.get(source)
        if whole is not None and shape_of(whole) == shape_of(call):
            return whole
        made = self.emit(call)
        source = source if whole is None else whole
        if shape_of(call)[-1:] == shape_of(source)[-1:] and isinstance(made, relax.Var):
            self._whole[made] = source
        return made

    def _product(self, call: Call) -> Expr:
        rows, weights = call.args
        if not isinstance(rows, relax.Var) or len(shape_of(rows)) != 2 or len(shape_of(weights)) != 2:
            return call
        whole = self._whole[rows] if rows in self._whole else self._joined(rows)
        if whole is None or len(shape_of(whole)) < 2:
            return call
        return self._reshaped(relax.op.matmul(whole, weights, out_dtype=call.attrs.out_dtype), call)

    def _joined(self, rows: relax.Var) -> Expr | None:
        """Rows whose columns were joined while they were flattened (heads of an attention), not flattened."""
        value = self.builder.lookup_binding(rows)
        if value is None or op_name(value) != "reshape":
            return None
        count, columns = shape_of(rows)
        shape = shape_of(value.args[0])
        for axis in range(2, len(shape)):
            if math.prod(shape[:axis]) == count:
                return self.emit(relax.op.reshape(value.args[0], (*shape[:axis], columns)))
        return None

    def _map(self, call: Call) -> Expr:
        """A map of operands that are reshapes of the same shape, or constants along the last axis."""
        given = [one for one in call.args if isinstance(one.ty, relax.TensorType)]
        wholes = [self._whole.get(one) if isinstance(one, relax.Var) else None for one in given]
        shapes = {shape_of(one) for one in wholes if one is not None}
        if len(shapes) != 1:
            return call
        (shape,) = shapes
        if math.prod(shape) != math.prod(shape_of(call)) or shape[-1] != shape_of(call)[-1]:
            return call
        operands: list[Expr] = []
        for one, whole in zip(given, wholes, strict=True):
            beside = whole if whole is not None else self._along_columns(one)
            if beside is None:
                return call
            operands.append(beside)
        return self._reshaped(
            Call(call.op, [*operands, *call.args[len(given) :]], call.attrs, call.ty_args), call
        )

    def _along_columns(self, operand: Expr) -> Expr | None:
        """A constant that has one axis at most, as broadcasting asks for it whatever stands before that axis."""
        array = array_of(operand)
        if array is None:
            return operand if len(shape_of(operand)) <= 1 else None
        return (
            constant(array.reshape(array.shape[-1:])) if array.size == math.prod(array.shape[-1:]) else None
        )

    def _reshaped(self, call: Call, like: Call) -> Expr:
        whole = self.emit(call)
        made = self.emit(relax.op.reshape(whole, shape_of(like)))
        if isinstance(made, relax.Var) and isinstance(whole, relax.Var):
            self._whole[made] = whole
        return made
