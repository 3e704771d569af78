"""Rewrite one-dimensional convolutions and poolings as two-dimensional ones of height 1.

Requires: `simplify` ran.
Ensures: no `conv1d` with constant weights is left; operators between such convolutions work on `[N, C, 1, W]`, too,
so that the templates and the blocked layouts of images serve sound and sequences as well.
"""

from __future__ import annotations

from collections.abc import Callable

import tvm
from tvm import relax
from tvm.ir import Call

from edgec.compiler.graph.operators import UNARY
from edgec.compiler.graph.rewrite import (
    Expr,
    Walker,
    array_of,
    constant,
    dtype_of,
    is_tensor,
    leaves,
    op_name,
    shape_of,
)

_BINARY = (
    "add",
    "subtract",
    "multiply",
    "divide",
    "maximum",
    "minimum",
    "power",
    "right_shift",
    "left_shift",
)


def widen(mod: tvm.IRModule) -> tvm.IRModule:
    """Apply the pass (see the module's docstring)."""
    return _Widener(mod).run()


class _Widener(Walker):
    """Keeps the wide form of a tensor beside its own one; either is made when first asked for."""

    def __init__(self, mod: tvm.IRModule, entry: str = "main") -> None:
        super().__init__(mod, entry)
        self.wide: dict[relax.Var, Expr] = {}

    def bind(self, var: relax.Var, value: Expr) -> None:
        """Give the old variable `var` its new value."""
        if isinstance(value, Call) and is_tensor(value) and len(shape_of(value)) == 3:
            made = self._widened(value)
            if made is not None:
                self.wide[var] = self.emit(made)
                return
        super().bind(var, self._narrow(value))

    def resolve(self, value: Expr) -> Expr:
        """`value` as it is: `bind` must first see which form of its operands exists."""
        return value

    def finish(self, result: Expr) -> Expr:
        """The result in its final form."""
        return self._narrow(result)

    def _narrow(self, value: Expr) -> Expr:
        """`value` in the new function, every tensor that it reads in its own rank."""
        for leaf in leaves(value):
            if isinstance(leaf, relax.Var) and leaf in self.wide and leaf not in self.renamed:
                self.renamed[leaf] = self.emit(relax.op.reshape(self.wide[leaf], shape_of(leaf)))
        return super().resolve(value)

    def _widened(self, call: Call) -> Expr | None:
        name = op_name(call)
        if name == "nn.conv1d":
            return self._conv(call)
        if name in ("nn.max_pool1d", "nn.avg_pool1d"):
            return self._pool(call, name)
        if name == "nn.pad" and dtype_of(call) in ("int8", "uint8"):
            return self._pad(call)
        if name == "astype" and self._is_wide(call.args[0]):
            return relax.op.astype(self._image(call.args[0]), dtype_of(call))
        if name in UNARY and self._is_wide(call.args[0]):
            return Call(call.op, [self._image(call.args[0]), *call.args[1:]], call.attrs, call.ty_args)
        if name in _BINARY and any(self._is_wide(arg) for arg in call.args):
            args = [self._operand(arg) for arg in call.args]
            return Call(call.op, args, call.attrs, call.ty_args)
        return None

    def _is_wide(self, expr: Expr) -> bool:
        return isinstance(expr, relax.Var) and expr in self.wide

    def _image(self, expr: Expr) -> Expr:
        """The form `[N, C, 1, W]` of a tensor of rank 3."""
        if isinstance(expr, relax.Var) and expr in self.wide:
            return self.wide[expr]
        n, c, w = shape_of(expr)
        made = self.emit(relax.op.reshape(self._narrow(expr), (n, c, 1, w)))
        if isinstance(expr, relax.Var):
            self.wide[expr] = made
            self.renamed.setdefault(expr, expr)
        return made

    def _operand(self, expr: Expr) -> Expr:
        """A tensor that broadcasts against rank 3, made to broadcast against its wide form."""
        array = array_of(expr)
        if array is not None:
            if array.ndim == 0:
                return constant(array)
            full = array.reshape((1,) * (3 - array.ndim) + array.shape)
            return constant(full.reshape(full.shape[0], full.shape[1], 1, full.shape[2]))
        shape = shape_of(expr)
        if len(shape) == 3:
            return self._image(expr)
        if not shape:
            return self._narrow(expr)
        full_shape = (1,) * (3 - len(shape)) + shape
        wide = (full_shape[0], full_shape[1], 1, full_shape[2])
        return self.emit(relax.op.reshape(self._narrow(expr), wide))

    def _conv(self, call: Call) -> Expr | None:
        attrs, weight = call.attrs, array_of(call.args[1])
        if weight is None or attrs.data_layout != "NCW" or attrs.kernel_layout != "OIW":
            return None
        if dtype_of(call) not in ("float32", "int32"):
            return None
        before, after = (int(p) for p in attrs.padding)
        return relax.op.nn.conv2d(
            self._image(call.args[0]),
            constant(weight[:, :, None, :]),
            strides=(1, int(attrs.strides[0])),
            padding=(0, before, 0, after),
            dilation=(1, int(attrs.dilation[0])),
            groups=int(attrs.groups),
            out_dtype=dtype_of(call),
        )

    def _pad(self, call: Call) -> Expr | None:
        """Padding along the sequence of what a convolution of integers reads."""
        widths = [int(w) for w in call.attrs.pad_width]
        if str(call.attrs.pad_mode) != "constant" or any(widths[:4]):
            return None
        padding = [0, 0, 0, 0, 0, 0, *widths[4:]]
        return relax.op.nn.pad(self._image(call.args[0]), padding, pad_value=float(call.attrs.pad_value))

    def _pool(self, call: Call, name: str) -> Expr | None:
        attrs = call.attrs
        if attrs.layout != "NCW" or dtype_of(call) != "float32":
            return None
        made: Callable[..., Expr] = (
            relax.op.nn.max_pool2d if name == "nn.max_pool1d" else relax.op.nn.avg_pool2d
        )
        before, after = (int(p) for p in attrs.padding)
        return made(
            self._image(call.args[0]),
            pool_size=(1, int(attrs.pool_size[0])),
            strides=(1, int(attrs.strides[0])),
            padding=(0, before, 0, after),
            dilation=(1, int(attrs.dilation[0])),
            ceil_mode=bool(attrs.ceil_mode),
            count_include_pad=bool(attrs.count_include_pad),
        )
