"""The interface of converters, and their table by operator.

A converter turns one ONNX node into Relax expressions. The converters of this package take precedence; TVM's own
serve the other operators. A converter that cannot express a node raises `CannotConvert` with the reason in the
user's words; any other exception is reported as a defect of edgec.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import tvm
from tvm import relax

from edgec.compiler.frontends.relax.builder import Array, Expr, SourceBuilder, constant
from edgec.compiler.frontends.relax.lists import NO_TENSOR

MICROSOFT = "com.microsoft"
ML = "ai.onnx.ml"
LIST_INPUT = "its input is a sequence or an empty optional value, not a tensor"


class CannotConvert(Exception):
    """The node cannot be expressed in Relax; the message says why. The node then runs in ONNX Runtime, if allowed."""


class LeaveToTvm(Exception):
    """The node is left to TVM's own converter, which is as good or better."""


@dataclass(frozen=True)
class Node:
    """An ONNX node during import.

    Attributes:
        builder: emits Relax bindings.
        inputs: Relax expressions; None where an optional input is left out.
        attrs: attributes by name: ints, floats, `str`, lists, `TensorProto` or `GraphProto`.
        outputs: names of the outputs; empty where one is not wanted.
        opset: version of the operator set of the node's domain.
        scope: imports sub-graphs (see `control_flow`).
        usual: the node's outputs, for other inputs, by the usual converter of its operator.
    """

    op_type: str
    domain: str
    opset: int
    builder: SourceBuilder
    inputs: Sequence[Expr | None]
    attrs: Mapping[str, Any]
    outputs: Sequence[str]
    scope: Any = field(repr=False, default=None)
    usual: Callable[[list[Expr | None]], list[Expr]] | None = field(repr=False, default=None)

    def has(self, position: int) -> bool:
        """Whether the input at this position is given."""
        return position < len(self.inputs) and self.inputs[position] is not None

    def input(self, position: int) -> Expr:
        """The input at this position.

        Raises:
            CannotConvert: the node does not have it.
        """
        if not self.has(position):
            raise CannotConvert(f"its input {position} is missing")
        return self.inputs[position]

    def array(self, position: int) -> Array | None:
        """The value of a constant input, or None when it is left out.

        Raises:
            CannotConvert: the input is only known at run time.
        """
        if not self.has(position):
            return None
        expr = self.inputs[position]
        if not is_constant(expr):
            raise CannotConvert(
                f"its input {position} has to be constant, but it is computed from the model's inputs"
            )
        return value_of(expr)

    def ints(self, name: str, position: int) -> list[int] | None:
        """Integers that are an attribute in older operator sets and an input in newer ones."""
        if name in self.attrs:
            return [int(x) for x in self.attrs[name]]
        value = self.array(position)
        return None if value is None else [int(x) for x in value.reshape(-1)]

    def shape(self, position: int) -> tuple[int, ...]:
        """The static shape of an input."""
        return shape_of(self.input(position))

    def rank(self, position: int) -> int:
        """The number of axes of an input, whose sizes need not be known."""
        return rank_of(self.input(position))

    def dtype(self, position: int) -> str:
        """The element type of an input, as numpy names it."""
        return dtype_of(self.input(position))

    def emit(self, expr: Expr) -> Expr:
        """Bind an expression to a variable of this node, so that its shape and type are known."""
        return self.builder.emit(expr)


Converter: TypeAlias = Callable[[Node], "Expr | Sequence[Expr]"]
CONVERTERS: dict[tuple[str, str], Converter] = {}


def converts(*op_types: str, domain: str = "") -> Callable[[Converter], Converter]:
    """Register a converter for operators of one domain."""

    def register(function: Converter) -> Converter:
        for op_type in op_types:
            CONVERTERS[domain, op_type] = function
        return function

    return register


# Converters that take sizes and amounts known only at run time, where the usual one of the operator does not.
DYNAMIC: dict[tuple[str, str], Converter] = {}


def converts_dynamic(*op_types: str, domain: str = "") -> Callable[[Converter], Converter]:
    """Register a converter for inputs whose sizes, or amounts that decide sizes, are known only at run time."""

    def register(function: Converter) -> Converter:
        for op_type in op_types:
            DYNAMIC[domain, op_type] = function
        return function

    return register


def is_constant(expr: Expr) -> bool:
    """Whether the expression is a tensor known at compile time."""
    return isinstance(expr, tvm.ir.GenericConst)


def value_of(expr: Expr) -> Array:
    """The value of a constant expression."""
    value: Array = expr.value.numpy()
    return value


def shape_of(expr: Expr) -> tuple[int, ...]:
    """The static shape of an expression whose type is known.

    Raises:
        CannotConvert: the shape depends on the model's data.
    """
    if isinstance(expr, NO_TENSOR):
        raise CannotConvert(LIST_INPUT)
    shape = getattr(expr.ty, "shape", None)  # a variable, where even the rank is unknown
    sizes: list[Expr] = list(shape) if isinstance(shape, relax.ShapeExpr) else [None]
    if not all(isinstance(size, int | tvm.tirx.IntImm) for size in sizes):
        raise CannotConvert("the shape of its input depends on the data, and only static shapes are compiled")
    return tuple(int(size) for size in sizes)


def rank_of(expr: Expr) -> int:
    """The number of axes of an expression whose type is known.

    Raises:
        CannotConvert: it depends on the model's data.
    """
    if isinstance(expr, NO_TENSOR):
        raise CannotConvert(LIST_INPUT)
    rank = getattr(expr.ty, "ndim", -1)
    if rank < 0:
        raise CannotConvert("the rank of its input depends on the data")
    return int(rank)


def dtype_of(expr: Expr) -> str:
    """The element type of an expression whose type is known, as numpy names it."""
    if isinstance(expr, NO_TENSOR):
        raise CannotConvert(LIST_INPUT)
    dtype = expr.ty.dtype
    return str(getattr(dtype, "dtype", dtype))


def scalar(value: float | bool, like: Expr) -> Expr:
    """A constant of rank 0 with the element type of `like`."""
    return constant(value, dtype_of(like))


def axis_of(axis: int, rank: int) -> int:
    """An axis counted from the front.

    Raises:
        CannotConvert: out of range.
    """
    if not -rank <= axis < max(rank, 1):
        raise CannotConvert(f"its axis {axis} is out of range for rank {rank}")
    return axis % rank if rank else 0


def reshaped(expr: Expr, shape: Sequence[int]) -> Expr:
    """The expression in another static shape of the same number of elements."""
    return relax.op.reshape(expr, tuple(int(size) for size in shape))
