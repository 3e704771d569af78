"""Keep 8-bit activations in 16 bits where convolutions multiply them, on x86-64 without a dot instruction.

There both factors of a product are widened to int16, except where `pmaddubsw` is exact. A tensor that is stored so is
widened once, when it is written, and not again for every block of output channels that reads it. It takes twice the
bytes: only tensors whose every reader takes int16 as it is, and which a convolution reads that needs it, are kept so.

Requires: `with_signedness` ran.
Ensures: the same results; a convolution reads int16 data only if they hold the values of 8-bit integers or are those
of a model with 16-bit activations.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import tvm
from tvm import relax
from tvm.ir import Call, Tuple

from edgec.compiler.backends.cpu.dot_instructions import operands_for
from edgec.compiler.backends.cpu.layouts.byte_pairs import stays_in_16_bits
from edgec.compiler.graph.rewrite import Expr, Walker, array_of, dtype_of, leaves, op_name, shape_of
from edgec.compiler.operands.operands import INT16_INT8, UINT8_INT8, Operands, in_pairs
from edgec.targets.target import Target

NARROW, WIDE = "uint8", "int16"
SUMS = ("float32", "int32")  # what values are converted from, and for arithmetic to


@dataclass
class _Tensor:
    """A tensor of 8-bit activations: its definition, and what reads it."""

    call: Call
    readers: list[tuple[relax.Var, Call | None]] = field(default_factory=list)  # None: the function's result


def with_wide_activations(mod: tvm.IRModule, entry: str = "main") -> tvm.IRModule:
    """Apply the pass (see the module's docstring)."""
    kept = _kept(mod[entry])
    return _Widener(mod, kept, entry).run() if kept else mod


def holds_bytes(expr: Expr, definition: Callable[[Expr], Call | None]) -> bool:
    """Whether a tensor of int16 is one of this pass.

    Args:
        expr: the tensor.
        definition: the call that a variable is the result of.
    """
    call = definition(expr)
    if call is None:
        return False
    if op_name(call) == "astype":
        return dtype_of(call.args[0]) == NARROW
    return _moves(call) and all(holds_bytes(one, definition) for one in _operands(call))


def wide_operands(target: Target) -> Operands | None:
    """What convolutions multiply where this pass applies; None on a target with a dot instruction, and on ARM."""
    native = operands_for(UINT8_INT8, target)
    if target.arch != "x86_64" or in_pairs(native) is None:
        return None
    return operands_for(INT16_INT8, target)


def _kept(function: relax.Function) -> set[relax.Var]:
    """The tensors that are kept in 16 bits."""
    tensors: dict[relax.Var, _Tensor] = {}
    bindings = [b for block in function.body.blocks for b in block.bindings]
    for binding in bindings:
        call = binding.value
        for leaf in leaves(call):
            if leaf in tensors:
                tensors[leaf].readers.append((binding.var, call if isinstance(call, Call) else None))
        if isinstance(call, Call) and _may_be_wide(call):
            tensors[binding.var] = _Tensor(call)
    for leaf in leaves(function.body.body):
        if leaf in tensors:
            tensors[leaf].readers.append((leaf, None))
    kept = set(tensors)
    while True:
        left = {var for var in kept if _stays(tensors[var], kept)}
        if left == kept:
            break
        kept = left
    # Those that a convolution reads, and what they are moved from and to.
    wanted = {
        var for var in kept if any(call is not None and _needs_wide(call) for _, call in tensors[var].readers)
    }
    while True:
        more = wanted | {leaf for var in wanted for leaf in leaves(tensors[var].call) if leaf in kept}
        more |= {reader for var in more for reader, _ in tensors[var].readers if reader in kept}
        if more == wanted:
            return wanted
        wanted = more


def _may_be_wide(call: Call) -> bool:
    """Whether a call makes a tensor of 8-bit activations from sums, or moves one."""
    if not isinstance(call.ty, relax.TensorType) or dtype_of(call) != NARROW:
        return False
    if not isinstance(call.ty.shape, relax.ShapeExpr) or len(shape_of(call)) != 4:
        return False
    return (op_name(call) == "astype" and dtype_of(call.args[0]) in SUMS) or _moves(call)


def _moves(call: Call) -> bool:
    name = op_name(call)
    if name == "nn.pad":
        return str(call.attrs.pad_mode) == "constant"
    return name in ("nn.max_pool2d", "concat")


def _multiplies(call: Call) -> bool:
    """Whether a call is a convolution with constant int8 weights, whose first operand may be int16."""
    if op_name(call) != "nn.conv2d" or dtype_of(call) != "int32" or call.attrs.data_layout != "NCHW":
        return False
    weight = array_of(call.args[1])
    return weight is not None and str(weight.dtype) == "int8"


def _needs_wide(call: Call) -> bool:
    """Whether a call is such a convolution, and not one that `pmaddubsw` computes exactly."""
    if not _multiplies(call):
        return False
    weight = array_of(call.args[1])
    return weight is None or int(call.attrs.groups) > 1 or not stays_in_16_bits(weight, 1)


def _stays(tensor: _Tensor, kept: set[relax.Var]) -> bool:
    """Whether every reader takes the tensor in 16 bits, and it is made of such tensors or of sums."""
    if _moves(tensor.call) and not all(
        leaf in kept for leaf in leaves(tensor.call) if isinstance(leaf, relax.Var)
    ):
        return False
    for var, call in tensor.readers:
        if call is None:
            return False
        if _multiplies(call) or (op_name(call) == "astype" and dtype_of(call) in SUMS):
            continue
        if var not in kept:
            return False
    return bool(tensor.readers)


def _operands(call: Call) -> list[Expr]:
    first = call.args[0]
    return list(first.fields) if isinstance(first, Tuple) else [first]


class _Widener(Walker):
    def __init__(self, mod: tvm.IRModule, kept: set[relax.Var], entry: str) -> None:
        super().__init__(mod, entry)
        self.kept = kept

    def visit(self, var: relax.Var, call: Call) -> Expr:
        """The tensors that are kept in 16 bits, and what reads them, in their new type."""
        if var in self.kept and op_name(call) == "astype":
            return relax.op.astype(self.emit(relax.op.astype(call.args[0], NARROW)), WIDE)
        if var in self.kept or _multiplies(call):
            return Call(
                call.op, list(call.args), call.attrs, call.ty_args
            )  # its type follows from its operands
        return call
