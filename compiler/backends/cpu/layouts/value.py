"""The forms of a tensor while layouts are planned, and the planner's interface to the rules."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

from tvm.ir import Call
from tvm.tirx import PrimFunc

from edgec.compiler.graph.rewrite import Array, Expr
from edgec.compiler.operands.operands import Operands
from edgec.targets.target import Target


@dataclass
class Value:
    """A tensor of the old graph in its plain and its blocked form; either is created on first use.

    Attributes:
        plain: as the old graph has it.
        blocked: `[batch, channel_blocks, height, width, lanes]`.
        channels: of the blocked form.
        nhwc: the tensor that `plain` was transposed from, if that was NHWC.
        flat: of rank 3 and more: all rows in one matrix, as products compute them.
        narrow: the blocked form in other element types, as operands of products; by type.
    """

    plain: Expr | None
    blocked: Expr | None
    channels: int = 0
    nhwc: Expr | None = None
    flat: Expr | None = None
    narrow: dict[str, Expr] = field(default_factory=dict)


class Plan(Protocol):
    """The planner as the rules see it. Expressions passed in are those of the old function."""

    @property
    def target(self) -> Target:
        """The hardware."""

    @property
    def error_budget(self) -> float:
        """The largest error that the model's outputs may have, relative to their largest value."""

    @property
    def lanes(self) -> int:
        """Elements of a block of channels: the lanes of a vector register or half of them."""

    @property
    def row_lanes(self) -> int:
        """Elements of a vector of a tensor that is rows: the lanes of a vector register."""

    def state(self, expr: Expr) -> Value:
        """The forms in which a variable of the old function is available."""

    def plain(self, expr: Expr) -> Expr:
        """The plain form of `expr`."""

    def blocked(self, expr: Expr) -> Expr:
        """The blocked form of a rank-4 `expr`."""

    def definition(self, expr: Expr) -> Call | None:
        """The call of the old function that `expr` is the result of."""

    def native(self, operands: Operands) -> Operands:
        """`operands`, by the instruction of the target if it has one."""

    def blocked_by(self, expr: Expr, lanes: int) -> Expr:
        """The blocked form of a rank-4 `expr`, in blocks of `lanes`: others than the planner's are for one reader."""

    def operand(self, expr: Expr, operands: Operands) -> Expr:
        """The blocked form of a rank-4 `expr`, in the element type of `operands`' activations."""

    def flat(self, expr: Expr) -> Expr:
        """A tensor as `[rows, columns]`, its last axis the columns."""

    def is_flat(self, expr: Expr) -> bool:
        """Whether `expr` is available as rows."""

    def is_blocked(self, expr: Expr) -> bool:
        """Whether `expr` is available in its blocked form."""

    def unpack(self, value: Value, *, nhwc: bool) -> Expr:
        """The plain form of a blocked value."""

    def operands(self, inner: int) -> Operands:
        """What the current layer multiplies, along a reduced axis of `inner` elements."""

    def call(self, kernel: PrimFunc, name: str, *args: Expr) -> Expr:
        """Bind a call of `kernel`."""

    def emit(self, expr: Expr) -> Expr:
        """Bind `expr` to a new variable."""

    def block_constant(self, array: Array) -> Expr:
        """A constant that broadcasts against NCHW, re-laid so that it broadcasts against the blocked form."""
