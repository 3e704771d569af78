"""Order the channels between convolutions so that `pmaddubsw` multiplies them exactly (see `byte_pairs`).

The order of the channels of a tensor that no operator but convolutions and element-wise ones sees is free: the
weights that make them and those that read them, and all constants with a value per channel, are put into the order.
It costs nothing at run time. A convolution whose few pairs of large weights would saturate then has none. The few
channels that fit beside no other are computed twice, and each copy is multiplied by half of the weights.

Requires: `with_signedness` ran.
Ensures: the same results; only constants change, and the number of channels.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
import tvm
from tvm import relax
from tvm.ir import Call

from edgec.compiler.backends.cpu.layouts.byte_pairs import MOST, divided, order_for_pairs, stays_in_16_bits
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

ELEMENTWISE = frozenset((
    "abs", "add", "astype", "bitwise_and", "bitwise_or", "bitwise_xor", "ceil", "clip", "divide", "erf", "exp", "floor",
    "floor_divide", "left_shift", "log", "maximum", "minimum", "multiply", "negative", "nn.leakyrelu", "nn.relu",
    "nn.silu", "power", "right_shift", "round", "rsqrt", "sigmoid", "sign", "sqrt", "square", "subtract", "tanh",
    "where", "greater", "greater_equal", "less", "less_equal", "equal",
))  # fmt: skip
POOLS = ("nn.max_pool2d", "nn.avg_pool2d")
HOPELESS = 8.0  # pairs that break, of those of two channels: then hardly any two channels fit


@dataclass
class _Group:
    """Tensors whose channels have one order: what reads them, and whether their order may change."""

    readers: list[Array] = field(default_factory=list)
    fixed: bool = False


def with_ordered_channels(mod: tvm.IRModule, entry: str = "main") -> tvm.IRModule:
    """Apply the pass (see the module's docstring)."""
    groups = _Groups(mod[entry])
    orders = {var: order for var, order in groups.orders()}
    return _Orderer(mod, orders, entry).run() if orders else mod


class _Groups:
    """The tensors of a function by the order of their channels."""

    def __init__(self, function: relax.Function) -> None:
        self.parents: dict[relax.Var, relax.Var] = {}
        self.groups: dict[relax.Var, _Group] = {}
        self.fix(function.params)
        for block in function.body.blocks:
            for binding in block.bindings:
                self._add(binding.var, binding.value)
        self.fix(leaves(function.body.body))

    def orders(self) -> Iterable[tuple[relax.Var, Array]]:
        """Each tensor whose channels get another order, with that."""
        found = {
            root: _order(group.readers)
            for root, group in self.groups.items()
            if self._root(root) == root and group.readers and not group.fixed
        }
        for var in list(self.parents):
            order = found.get(self._root(var))
            if order is not None:
                yield var, order

    def fix(self, exprs: Iterable[Expr]) -> None:
        """Keep the order of some tensors."""
        for one in exprs:
            if isinstance(one, relax.Var):
                self._group(one).fixed = True

    def _root(self, var: relax.Var) -> relax.Var:
        while self.parents.setdefault(var, var) != var:
            var = self.parents[var]
        return var

    def _group(self, var: relax.Var) -> _Group:
        return self.groups.setdefault(self._root(var), _Group())

    def _join(self, one: relax.Var, other: relax.Var) -> None:
        first, second = self._root(one), self._root(other)
        if first == second:
            return
        kept, gone = self._group(first), self._group(second)
        kept.readers += gone.readers
        kept.fixed |= gone.fixed
        self.parents[second] = first
        del self.groups[second]

    def _add(self, var: relax.Var, value: Expr) -> None:
        """What the operator that makes `var` says about the order of its channels, and of its operands'."""
        if isinstance(value, Call) and _has_channels(value):
            if op_name(value) == "nn.conv2d" and self._convolution(var, value):
                return
            together = _same_channels(value)
            if together is not None:
                for one in together:
                    self._join(var, one)
                return
        self.fix([var, *leaves(value)])

    def _convolution(self, var: relax.Var, call: Call) -> bool:
        data, weight, attrs = call.args[0], array_of(call.args[1]), call.attrs
        if weight is None or attrs.data_layout != "NCHW" or attrs.kernel_layout != "OIHW":
            return False
        if not isinstance(data, relax.Var):
            return False
        if int(attrs.groups) == 1:
            self._group(var)
            self._group(data)
            if _is_integer(call):
                self._group(data).readers.append(weight)
            return True
        if int(attrs.groups) == weight.shape[0] == shape_of(data)[1]:
            self._join(var, data)
            return True
        return False


def _is_integer(call: Call) -> bool:
    return (
        dtype_of(call) == "int32" and dtype_of(call.args[0]) == "uint8" and dtype_of(call.args[1]) == "int8"
    )


def _has_channels(call: Call) -> bool:
    return is_tensor(call) and len(shape_of(call)) == 4


def _same_channels(call: Call) -> list[relax.Var] | None:
    """The operands whose channels are those of the result, one by one; None if some are not."""
    name = op_name(call)
    if name in POOLS and call.attrs.layout == "NCHW":
        return [call.args[0]] if isinstance(call.args[0], relax.Var) else None
    if name == "nn.pad":
        widths = [int(width) for width in call.attrs.pad_width]
        return [call.args[0]] if isinstance(call.args[0], relax.Var) and not any(widths[:4]) else None
    if name not in ELEMENTWISE:
        return None
    found = []
    for arg in call.args:
        if array_of(arg) is not None:
            continue
        if not isinstance(arg, relax.Var) or not is_tensor(arg) or len(shape_of(arg)) != 4:
            return None
        if shape_of(arg)[1] == shape_of(call)[1]:
            found.append(arg)
        elif shape_of(arg)[1] != 1:
            return None
    return found


def _order(readers: list[Array]) -> Array | None:
    """An order for what reads the channels; None where they are as good as they are, and where there is none."""
    broken = [weight for weight in readers if not stays_in_16_bits(weight, 1)]
    if not broken or any(_broken_pairs(weight) > HOPELESS for weight in broken):
        return None
    return order_for_pairs(readers)


def _broken_pairs(weight: Array) -> float:
    """How many pairs of weights of two neighbouring channels could saturate, on average."""
    rows = weight.swapaxes(0, 1).reshape(weight.shape[1], -1).astype(np.int16)
    rows = rows[: len(rows) // 2 * 2]
    sums = rows[::2] + rows[1::2]
    return float((np.abs(sums) > MOST).sum()) / max(1, len(sums))


class _Orderer(Walker):
    def __init__(self, mod: tvm.IRModule, orders: dict[relax.Var, Array], entry: str) -> None:
        super().__init__(mod, entry)
        self.orders = orders
        self.sources = {
            binding.var: binding.value for block in mod[entry].body.blocks for binding in block.bindings
        }

    def visit(self, var: relax.Var, call: Call) -> Expr:
        """The call with its constants in the order of its channels."""
        before, made = self.sources[var], self.orders.get(var)
        args = list(call.args)
        if op_name(call) == "nn.conv2d":
            read = self.orders.get(before.args[0])
            weight = array_of(call.args[1])
            if weight is None or (made is None and read is None):
                return call
            weight = weight if made is None else weight[made]
            groups = int(call.attrs.groups)
            if read is not None and groups == 1:
                weight = divided(weight, read)
            args[1] = constant(weight)
            if groups > 1:
                return _depthwise(call, args)
        elif made is None:
            return call
        else:
            args = [_ordered(arg, made) for arg in args]
        return Call(call.op, args, call.attrs, call.ty_args)  # its type follows from its operands


def _depthwise(call: Call, args: list[Expr]) -> Expr:
    """A convolution of each channel by itself with another number of channels."""
    attrs = call.attrs
    return relax.op.nn.conv2d(
        *args,
        strides=list(attrs.strides),
        padding=list(attrs.padding),
        dilation=list(attrs.dilation),
        groups=shape_of(args[0])[1],
        out_dtype=dtype_of(call),
    )


def _ordered(arg: Expr, order: Array) -> Expr:
    """A constant with a value per channel in their order; anything else as it is."""
    array = array_of(arg)
    if array is None or array.ndim < 3 or array.shape[-3] == 1:
        return arg
    return constant(array.take(order, axis=-3))
