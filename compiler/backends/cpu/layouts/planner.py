"""Choose blocked layouts over the whole graph and keep them from end to end.

Requires: `simplify` ran; NCHW operators as the importers emit them.
Ensures: convolutions, poolings and products with constant weights call the kernels of
`edgec.compiler.backends.cpu.compute` with packed weights; operators between them work on blocked tensors; a change
of layout is inserted only where a plain tensor is required (by an operator without a blocked form, as a result of the
model), and once per tensor.
"""

from __future__ import annotations

import tvm
from tvm import relax
from tvm.ir import Call
from tvm.tirx import PrimFunc

from edgec.compiler.backends.cpu import relayout
from edgec.compiler.backends.cpu.dot_instructions import operands_for
from edgec.compiler.backends.cpu.layouts import channel_rules, integer_rules, registry, rules
from edgec.compiler.backends.cpu.layouts.packing import block_channels
from edgec.compiler.backends.cpu.layouts.value import Value
from edgec.compiler.backends.cpu.specs import PackSpec, UnpackSpec
from edgec.compiler.backends.cpu.templates import relayouts
from edgec.compiler.backends.interface import OperandsOf
from edgec.compiler.graph.rewrite import (
    Array,
    Expr,
    Walker,
    constant,
    dtype_of,
    is_tensor,
    leaves,
    op_name,
    shape_of,
)
from edgec.compiler.graph.sources import node_of
from edgec.compiler.operands.operands import FLOAT32, Operands
from edgec.targets.target import Target

RULES = (rules, channel_rules)  # their import fills the registry
LEAST_MOVED = 4096  # elements from which a change of layout is a kernel of its own: nothing is fused with it


class LayoutPlanner(Walker):
    """Walks the function and assigns each operator its layout, by the operator's rule."""

    def __init__(
        self,
        mod: tvm.IRModule,
        target: Target,
        operands_of: OperandsOf | None = None,
        lanes: int | None = None,
        entry: str = "main",
        error_budget: float = 1e-3,
        block: int | None = None,
    ) -> None:
        super().__init__(mod, entry)
        self.row_lanes = lanes or target.fp32_lanes  # of tensors that are rows
        self.lanes = block or self.row_lanes
        self.target = target
        self.error_budget = error_budget
        self.operands_of = operands_of or (lambda _node: FLOAT32)
        self.values: dict[relax.Var, Value] = {}
        self.definitions: dict[relax.Var, Call] = {}

    def bind(self, var: relax.Var, value: Expr) -> None:
        """Give the old variable `var` its new value."""
        if isinstance(value, Call):
            self.definitions[var] = value
            rule = registry.RULES.get(op_name(value))
            made = integer_rules.of(self, value) if is_tensor(value) else None
            if made is None:
                made = rule(self, value) if rule is not None and is_tensor(value) else None
            if made is not None:
                self.values[var] = made
                return
        plain = self.resolve_plain(value)
        self.renamed[var] = plain if isinstance(plain, relax.Var) else self.emit(plain)

    def resolve(self, value: Expr) -> Expr:
        """`value` as it is."""
        return value  # the rules look at the old expression and resolve what they need

    def finish(self, result: Expr) -> Expr:
        """The result in its final form."""
        return self.resolve_plain(result)

    def resolve_plain(self, value: Expr) -> Expr:
        """`value` in the new function, every tensor it reads in its plain form."""
        for leaf in leaves(value):
            if isinstance(leaf, relax.Var) and leaf in self.values:
                self.plain(leaf)
        return super().resolve(value)

    # What the rules use.

    def state(self, expr: Expr) -> Value:
        """The forms in which a variable of the old function is available."""
        if isinstance(expr, relax.Var) and expr in self.values:
            return self.values[expr]
        return Value(super().resolve(expr), None)

    def plain(self, expr: Expr) -> Expr:
        """The NCHW form of `expr` (a variable or constant of the old function)."""
        value = self.state(expr)
        if value.plain is None and value.flat is not None:
            value.plain = self.emit(relax.op.reshape(value.flat, shape_of(expr)))
        elif value.plain is None:
            assert value.blocked is not None
            value.plain = self.unpack(value, nhwc=False)
        if isinstance(expr, relax.Var):
            self.renamed[expr] = value.plain
        return value.plain

    def unpack(self, value: Value, *, nhwc: bool) -> Expr:
        """The plain form of a blocked value."""
        assert value.blocked is not None
        shape = shape_of(value.blocked)
        if shape[2:4] == (1, 1) and value.channels % self.lanes == 0:
            dims = (shape[0], 1, 1, value.channels) if nhwc else (shape[0], value.channels, 1, 1)
            return self.emit(relax.op.reshape(value.blocked, dims))
        if not nhwc and dtype_of(value.blocked) == "float32":
            spec = UnpackSpec(shape[0], value.channels, (shape[2], shape[3]), self.lanes)
            if spec.flops >= LEAST_MOVED and relayouts.applies(spec):
                return self.call(relayouts.unpack(spec), "unpack", value.blocked)
        return self.call(
            relayout.unpack(shape, value.channels, dtype_of(value.blocked), nhwc), "unpack", value.blocked
        )

    def definition(self, expr: Expr) -> Call | None:
        """The call of the old function that `expr` is the result of."""
        return self.definitions.get(expr) if isinstance(expr, relax.Var) else None

    def native(self, operands: Operands) -> Operands:
        """`operands`, by the instruction of the target if it has one."""
        return operands_for(operands, self.target)

    def blocked_by(self, expr: Expr, lanes: int) -> Expr:
        """The blocked form of a rank-4 `expr`, in blocks of `lanes`: others than the planner's are for one reader."""
        if lanes == self.lanes:
            return self.blocked(expr)
        value = self.state(expr)
        source = value.nhwc if value.nhwc is not None else self.plain(expr)
        return self.call(
            relayout.pack(shape_of(source), lanes, dtype_of(source), value.nhwc is not None), "pack", source
        )

    def blocked(self, expr: Expr) -> Expr:
        """The blocked form of a rank-4 `expr`."""
        value = self.state(expr)
        if value.blocked is None:
            value.plain = self.plain(expr)
            source = value.nhwc if value.nhwc is not None else value.plain
            kernel = self._pack(source, nhwc=value.nhwc is not None)
            value.blocked = self.call(kernel, "pack", source)
            value.channels = shape_of(value.plain)[1]
            if isinstance(expr, relax.Var):
                self.values[expr] = value
        return value.blocked

    def _pack(self, source: Expr, *, nhwc: bool) -> PrimFunc:
        shape, dtype = shape_of(source), dtype_of(source)
        if not nhwc and dtype == "float32":
            spec = PackSpec(shape[0], shape[1], (shape[2], shape[3]), self.lanes)
            if spec.flops >= LEAST_MOVED and relayouts.applies(spec):
                return relayouts.pack(spec)
        return relayout.pack(shape, self.lanes, dtype, nhwc)

    def operands(self, inner: int) -> Operands:
        """What the current layer multiplies, along a reduced axis of `inner` elements: no step may be left over."""
        chosen = operands_for(self.operands_of(node_of(self.name)), self.target)
        return chosen if chosen.divides(inner) else FLOAT32

    def operand(self, expr: Expr, operands: Operands) -> Expr:
        """The blocked form of a rank-4 `expr`, in the element type of `operands`' activations."""
        blocked = self.blocked(expr)
        if dtype_of(blocked) == operands.data:
            return blocked
        value = self.state(expr)
        if operands.data not in value.narrow:
            value.narrow[operands.data] = self.emit(relax.op.astype(blocked, operands.data))
        return value.narrow[operands.data]

    def flat(self, expr: Expr) -> Expr:
        """A tensor as `[rows, columns]`, its last axis the columns."""
        value = self.state(expr)
        if value.flat is not None:
            return value.flat
        shape = shape_of(expr)
        plain = self.plain(expr)
        return plain if len(shape) == 2 else self.emit(relax.op.reshape(plain, (-1, shape[-1])))

    def is_flat(self, expr: Expr) -> bool:
        """Whether `expr` is available as rows."""
        return self.state(expr).flat is not None

    def is_blocked(self, expr: Expr) -> bool:
        """Whether `expr` is available in its blocked form."""
        return self.state(expr).blocked is not None

    def call(self, kernel: PrimFunc, name: str, *args: Expr) -> Expr:
        """Bind a call of `kernel`; equal kernels are added to the module once."""
        out = kernel.params[-1].ty
        gv = self.builder.add_func(kernel, name)
        ty = relax.TensorType([int(d) for d in out.shape], str(out.dtype.dtype))
        return self.emit(relax.call_tir(gv, list(args), out_ty=ty))

    def block_constant(self, array: Array) -> Expr:
        """A constant that broadcasts against NCHW, re-laid so that it broadcasts against the blocked form."""
        if array.size == 1:
            return constant(array.reshape(()))
        full = array.reshape((1,) * (4 - array.ndim) + array.shape)
        if full.shape[1] == 1:
            return constant(full.reshape(full.shape[0], 1, *full.shape[2:], 1))
        return constant(block_channels(full, self.lanes))


def plan_layouts(
    mod: tvm.IRModule,
    target: Target,
    operands_of: OperandsOf | None = None,
    lanes: int | None = None,
    error_budget: float = 1e-3,
    block: int | None = None,
) -> tvm.IRModule:
    """Apply the pass (see the module's docstring).

    Args:
        mod: static NCHW operators.
        target: the hardware.
        operands_of: chooses what each source node multiplies; float32 if None.
        lanes: elements of a vector, and channels of a block; None for the float32 lanes of a vector register.
        error_budget: the largest error that the model's outputs may have, relative to their largest value.
        block: channels of a block, where they are not `lanes`.
    """
    return LayoutPlanner(mod, target, operands_of, lanes, error_budget=error_budget, block=block).run()
