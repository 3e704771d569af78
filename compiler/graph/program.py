"""The calls of a planned function as a table, for runtimes without TVM's virtual machine.

Requires: `plan_memory` ran: the function takes inputs, weights, then the parts of the arena, and allocates its results.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from tvm import relax
from tvm.ir import Call, GlobalVar, Tuple, TupleGetItem

from edgec.compiler.graph.rewrite import Expr, dtype_of, is_tensor, op_name, shape_of
from edgec.compiler.lowered import Operand, Place, Program

_ENDS = ("memory.kill_tensor", "memory.kill_storage")
_ALLOCATES = ("builtin.alloc_tensor", "memory.alloc_tensor")


class _NoTable(Exception):
    """The function does more than to call kernels of this module."""


@dataclass
class _Reader:
    """The walk over one function."""

    operands: list[Operand] = field(default_factory=list)
    places: dict[Expr, int | list[int]] = field(default_factory=dict)  # operands of each variable
    calls: list[tuple[str, tuple[int, ...]]] = field(default_factory=list)
    results: int = 0

    def add(
        self, var: Expr, kind: Literal["input", "weight", "arena", "result"], number: int, at: int
    ) -> None:
        if not is_tensor(var):
            raise _NoTable
        self.places[var] = len(self.operands)
        self.operands.append(Operand(kind, number, at, shape_of(var), dtype_of(var)))

    def one(self, expr: Expr) -> int:
        """The operand that `expr` is."""
        found = self.places.get(expr) if isinstance(expr, relax.Var) else None
        if not isinstance(found, int):
            raise _NoTable
        return found

    def several(self, expr: Expr) -> list[int]:
        """The operands that `expr` is, in order."""
        if isinstance(expr, Tuple):
            return [self.one(part) for part in expr.fields]
        if isinstance(expr, relax.Var) and isinstance(found := self.places.get(expr), list):
            return found
        return [self.one(expr)]

    def binding(self, var: relax.Var, value: Expr) -> None:
        name = op_name(value)
        if name in _ENDS or name == "memory.alloc_storage":
            return
        if name in _ALLOCATES:
            self.add(var, "result", self.results, 0)
            self.results += 1
        elif isinstance(value, Call) and isinstance(value.op, GlobalVar):
            self.calls.append((str(value.op.name_hint), tuple(self.one(argument) for argument in value.args)))
        elif name == "reshape":
            source = self.operands[self.one(value.args[0])]
            self.places[var] = len(self.operands)
            self.operands.append(replace(source, shape=shape_of(var)))
        elif isinstance(value, TupleGetItem):
            self.places[var] = self.several(value.tuple_value)[value.index]
        elif isinstance(value, Tuple):
            self.places[var] = self.several(value)
        else:
            self.places[var] = self.one(value)


def program_of(function: relax.Function, places: Sequence[Place]) -> Program | None:
    """The table of the calls of `function`, whose last parameters are `places`; None where a table cannot tell all."""
    count = int(function.attrs["num_input"]) if function.attrs and "num_input" in function.attrs else None
    if count is None:
        return None
    weights = len(function.params) - len(places)
    reader = _Reader()
    try:
        for number, param in enumerate(function.params):
            if number < count:
                reader.add(param, "input", number, 0)
            elif number < weights:
                reader.add(param, "weight", number - count, 0)
            else:
                reader.add(param, "arena", 0, places[number - weights].offset)
        for block in function.body.blocks:
            for binding in block.bindings:
                reader.binding(binding.var, binding.value)
        outputs = reader.several(function.body.body)
    except _NoTable:
        return None
    return Program(tuple(reader.operands), tuple(reader.calls), tuple(outputs))
