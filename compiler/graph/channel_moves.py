"""Write what moves whole channels as an operator that says so.

Requires: static shapes.
Ensures: the channel shuffle of grouped networks (a reshape that splits the channels, a transpose of the two axes, a
reshape back) is a `take` of constant indices along the channels, and the parts of a `split` are slices: a back end that
keeps channels in blocks needs no plain tensor for either.
"""

from __future__ import annotations

import numpy as np
import tvm
from tvm import relax
from tvm.ir import Call, TupleGetItem

from edgec.compiler.graph.rewrite import Expr, Walker, constant, op_name, shape_of


def name_channel_moves(mod: tvm.IRModule) -> tvm.IRModule:
    """Apply the pass (see the module's docstring)."""
    return _Moves(mod).run()


class _Moves(Walker):
    def __init__(self, mod: tvm.IRModule, entry: str = "main") -> None:
        super().__init__(mod, entry)
        self.calls: dict[Expr, Call] = {}  # by their new variable

    def bind(self, var: relax.Var, value: Expr) -> None:
        """Give the old variable `var` its new value."""
        if isinstance(value, TupleGetItem):
            part = self._part(value)
            value = value if part is None else part
        super().bind(var, value)
        if isinstance(value, Call) and isinstance(self.renamed[var], relax.Var):
            self.calls[self.renamed[var]] = value

    def visit(self, var: relax.Var, call: Call) -> Expr:
        """The replacement of `call`."""
        shuffled = self._shuffle(call)
        return call if shuffled is None else shuffled

    def _shuffle(self, call: Call) -> Expr | None:
        if op_name(call) != "reshape" or len(shape_of(call)) != 4:
            return None
        turned = self.calls.get(call.args[0])
        if turned is None or op_name(turned) != "permute_dims" or turned.attrs.axes is None:
            return None
        split = self.calls.get(turned.args[0])
        if [int(axis) for axis in turned.attrs.axes] != [0, 2, 1, 3, 4] or split is None:
            return None
        source = split.args[0]
        whole, parts = shape_of(call), shape_of(split)
        same = op_name(split) == "reshape" and shape_of(source) == whole
        if not same or parts != (whole[0], parts[1], parts[2], *whole[2:]):
            return None
        order = np.arange(whole[1], dtype=np.int64).reshape(parts[1], parts[2]).T.reshape(-1)
        return relax.op.take(source, constant(order), axis=1)

    def _part(self, value: TupleGetItem) -> Expr | None:
        """A part of a split along the channels of images."""
        split = self.calls.get(value.tuple_value)
        if split is None or op_name(split) != "split" or not isinstance(value.ty, relax.TensorType):
            return None
        shape, axis = shape_of(split.args[0]), int(split.attrs.axis)
        if len(shape) != 4 or axis % 4 != 1:
            return None
        counts = [int(field.shape.values[1]) for field in split.ty.fields]
        first = sum(counts[: value.index])
        return relax.op.strided_slice(
            split.args[0], axes=[1], begin=[first], end=[first + counts[value.index]], strides=[1]
        )
