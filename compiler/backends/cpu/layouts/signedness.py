"""Give 8-bit activations the signedness that the target's dot instructions take.

x86 multiplies uint8 by int8, ARM int8 by int8. A tensor of the other type is kept as `x + 128` (or `x - 128`), which
holds the same bits but for the uppermost: sums of products then differ by a constant per channel, which joins the bias.

Requires: `simplify` ran.
Ensures: the same results; products with constant int8 weights read activations of `data` only.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import tvm
from tvm import relax
from tvm.ir import Call, Tuple

from edgec.compiler.graph.rewrite import (
    Array,
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

HALF = 128
OTHER = {"uint8": "int8", "int8": "uint8"}
PRODUCTS = ("nn.conv2d", "nn.conv1d", "matmul")
# Operators that move elements or compare them: they do the same to shifted ones.
MOVING = (
    "reshape", "permute_dims", "squeeze", "expand_dims", "flatten", "nn.batch_flatten", "strided_slice", "concat",
    "nn.max_pool2d", "nn.max_pool1d", "broadcast_to",
)  # fmt: skip


def has_integer_products(mod: tvm.IRModule, entry: str = "main") -> bool:
    """Whether a function multiplies 8-bit integers."""
    bindings = (b.value for block in mod[entry].body.blocks for b in block.bindings)
    return any(
        op_name(value) in PRODUCTS and dtype_of(value.args[1]) == "int8" and dtype_of(value) == "int32"
        for value in bindings
    )


def with_signedness(mod: tvm.IRModule, data: str) -> tvm.IRModule:
    """Apply the pass (see the module's docstring); `data` is `uint8` or `int8`."""
    return _Shifter(mod, data).run() if has_integer_products(mod) else mod


class _Shifter(Walker):
    """Keeps the shifted form of a tensor beside its own; either is made when first asked for."""

    def __init__(self, mod: tvm.IRModule, data: str) -> None:
        super().__init__(mod)
        self.data, self.other = data, OTHER[data]
        self.shift = HALF if data == "uint8" else -HALF  # of a value on its way to the type `data`
        self.shifted: dict[relax.Var, Expr] = {}
        self.definitions: dict[relax.Var, Call] = {}
        self.offsets: dict[
            relax.Var, tuple[Expr, Array]
        ] = {}  # values whose last addition is still to be made

    def resolve(self, value: Expr) -> Expr:
        """`value` as it is: `bind` must first see which form of its operands exists."""
        return value

    def finish(self, result: Expr) -> Expr:
        """The result in its final form."""
        return self._own(result)

    def bind(self, var: relax.Var, value: Expr) -> None:
        """Give the old variable `var` its new value."""
        if isinstance(value, Call) and is_tensor(value):
            self.definitions[var] = value
            if dtype_of(value) == self.other:
                made = self._narrow(value)
                if made is not None:
                    self.shifted[var] = self.emit(made)
                    return
            elif self._offset(var, value):
                return
        resolved = self._own(value)
        self.renamed[var] = resolved if isinstance(resolved, relax.Var) else self.emit(resolved)

    def _own(self, value: Expr) -> Expr:
        """`value` in the new function, every tensor that it reads in its own type."""
        for leaf in leaves(value):
            if not isinstance(leaf, relax.Var) or leaf in self.renamed:
                continue
            if leaf in self.shifted:
                bits = self.emit(relax.op.astype(self.shifted[leaf], self.other))
                self.renamed[leaf] = self.emit(relax.op.bitwise_xor(bits, _top_bit(self.other)))
            elif leaf in self.offsets:
                self.renamed[leaf] = self._materialised(*self.offsets[leaf])
        return super().resolve(value)

    def _materialised(self, base: Expr, offset: Array) -> Expr:
        return self.emit(relax.op.add(base, constant(offset))) if offset.any() else base

    def _shifted(self, expr: Expr) -> Expr:
        """`expr`, of the other type, in the type `data`."""
        if isinstance(expr, relax.Var) and expr in self.shifted:
            return self.shifted[expr]
        bits = self.emit(relax.op.bitwise_xor(self._own(expr), _top_bit(self.other)))
        made = self.emit(relax.op.astype(bits, self.data))
        if isinstance(expr, relax.Var):
            self.shifted[expr] = made
            self.renamed.setdefault(expr, expr)
        return made

    # Results of the other type.

    def _narrow(self, call: Call) -> Expr | None:
        """The shifted result of a call; None where it is computed in its own type."""
        name = op_name(call)
        if name == "astype" and dtype_of(call.args[0]) in ("float32", "int32"):
            return relax.op.astype(self._plus(call.args[0], self.shift), self.data)
        if name == "nn.pad" and str(call.attrs.pad_mode) == "constant":
            widths = [int(w) for w in call.attrs.pad_width]
            value = float(call.attrs.pad_value) + self.shift
            return relax.op.nn.pad(self._shifted(call.args[0]), widths, pad_value=value)
        nearest = name == "image.resize2d" and str(call.attrs.method) == "nearest_neighbor"
        if name not in MOVING and not nearest:
            return None
        first = call.args[0]
        if isinstance(first, Tuple):
            operand: Expr = relax.Tuple([self._shifted(field) for field in first.fields])
        else:
            operand = self._shifted(first)
        return Call(call.op, [operand, *call.args[1:]], call.attrs, call.ty_args)

    def _plus(self, expr: Expr, shift: int) -> Expr:
        """`expr`, whole numbers of float32 or int32, plus `shift`: in the additions and limits that it ends with."""
        call = self.definitions.get(expr) if isinstance(expr, relax.Var) else None
        name = op_name(call) if call is not None else ""
        number = array_of(call.args[1]) if call is not None and len(call.args) > 1 else None
        if call is not None and number is not None and number.size == 1 and number.dtype.kind in "fi":
            moved = constant((number + number.dtype.type(shift)).astype(number.dtype))
            if name in ("maximum", "minimum"):
                make: Callable[..., Expr] = relax.op.maximum if name == "maximum" else relax.op.minimum
                return self.emit(make(self._plus(call.args[0], shift), moved))
            if (
                name == "add"
                and self._is_rounded(call.args[0])
                and abs(float(number.reshape(()))) <= 2 * HALF
            ):
                return self.emit(relax.op.add(self._own(call.args[0]), moved))
        return self.emit(relax.op.add(self._own(expr), constant(np.array(shift, dtype_of(expr)))))

    def _is_rounded(self, expr: Expr) -> bool:
        call = self.definitions.get(expr) if isinstance(expr, relax.Var) else None
        return dtype_of(expr) == "int32" or (call is not None and op_name(call) == "round")

    # Results of other types that are computed of shifted operands, up to a constant.

    def _offset(self, var: relax.Var, call: Call) -> bool:
        name = op_name(call)
        if name in PRODUCTS and dtype_of(call) == "int32" and dtype_of(call.args[0]) == self.other:
            made = self._product(call)
        elif name == "astype" and call.args[0] in self.shifted and dtype_of(call) in ("int32", "float32"):
            wide = self.emit(relax.op.astype(self.shifted[call.args[0]], dtype_of(call)))
            made = wide, np.array(-self.shift, dtype_of(call))
        elif name in ("add", "subtract") and call.args[0] in self.offsets:
            made = self._moved(call, name)
        else:
            return False
        if made is None:
            return False
        base, offset = made
        self.offsets[var] = base if isinstance(base, relax.Var) else self.emit(base), offset
        return True

    def _product(self, call: Call) -> tuple[Expr, Array] | None:
        """A product of the shifted activations, and what it lacks, by channel."""
        weight = array_of(call.args[1])
        if weight is None or weight.dtype != np.int8:
            return None
        data, name = self._shifted(call.args[0]), op_name(call)
        if name == "matmul":
            if weight.ndim != 2:
                return None
            missing = -self.shift * weight.sum(axis=0, dtype=np.int64)
            return relax.op.matmul(data, call.args[1], out_dtype="int32"), missing.astype(np.int32)
        missing = -self.shift * weight.reshape(weight.shape[0], -1).sum(axis=1, dtype=np.int64)
        shape = [1, -1, *[1] * (weight.ndim - 2)]
        return self._convolution(call, data, weight.ndim - 2), missing.reshape(shape).astype(np.int32)

    def _convolution(self, call: Call, data: Expr, rank: int) -> Expr:
        """The convolution of other data; its own padding by zero becomes one of the shifted zero."""
        attrs, padding = call.attrs, [int(p) for p in call.attrs.padding]
        if any(padding):
            widths = [0, 0, 0, 0, *(w for i in range(rank) for w in (padding[i], padding[rank + i]))]
            data = self.emit(relax.op.nn.pad(data, widths, pad_value=float(self.shift)))
        make = relax.op.nn.conv2d if rank == 2 else relax.op.nn.conv1d
        return make(
            data,
            call.args[1],
            strides=[int(s) for s in attrs.strides],
            padding=[0] * len(padding),
            dilation=[int(d) for d in attrs.dilation],
            groups=int(attrs.groups),
            data_layout=str(attrs.data_layout),
            kernel_layout=str(attrs.kernel_layout),
            out_dtype="int32",
        )

    def _moved(self, call: Call, name: str) -> tuple[Expr, Array] | None:
        """A constant added to, or taken from, a value that lacks one already: whole numbers, so that both are one."""
        base, offset = self.offsets[call.args[0]]
        number = array_of(call.args[1])
        if number is None or shape_of(call) != shape_of(base):
            return None
        if number.dtype.kind == "f" and (
            np.any(number != np.round(number)) or np.any(np.abs(number) > 2 * HALF)
        ):
            return None
        total = offset + number if name == "add" else offset - number
        return base, np.asarray(total).astype(offset.dtype)


def _top_bit(dtype: str) -> Expr:
    return constant(np.array(-128 if dtype == "int8" else 128, dtype))
