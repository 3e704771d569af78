"""Control flow of a model: which part of it calls which, as the front end found it.

A *part* is a straight-line function (a branch, the body of a loop, the model's own graph) in a module of its own, with
the name `main`. It calls a branch or a loop as an external function, under the name of a `Branch` or a `Repeat`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

import tvm
from tvm import relax

from edgec.compiler.graph.rewrite import Expr

PREFIX = "edgec.part."
MAIN = f"{PREFIX}main"  # the model's own graph


@dataclass(frozen=True)
class Branch:
    """A choice between two parts: takes the condition, then what either of them reads.

    Attributes:
        name: under which it is called.
        parameters: types of what the parts read.
        parts: those run for true and for false.
        reads: positions among `parameters` of what each part reads, in the order of its own parameters.
        result: the type of what it returns.
    """

    name: str
    parameters: tuple[Expr, ...]
    parts: tuple[str, str]
    reads: tuple[tuple[int, ...], tuple[int, ...]]
    result: Expr


@dataclass(frozen=True)
class Repeat:
    """A loop: takes the largest number of iterations, the condition, the state, and what its body reads.

    The body takes the iteration's number (int64), the condition and the state, then what it reads; it returns the
    condition, the new state, then one row for each output that collects rows. The loop returns the number of
    iterations, the last condition, the last state, then a list of each output's rows.

    Attributes:
        name: under which it is called.
        body: the part that is repeated.
        state: types of what an iteration hands to the next.
        reads: types of what the body reads.
        rows: how many outputs collect rows.
    """

    name: str
    body: str
    state: tuple[Expr, ...]
    reads: tuple[Expr, ...]
    rows: int


Control: TypeAlias = Branch | Repeat


@dataclass(frozen=True)
class Parts:
    """The parts of a model beside its own graph, by name, and the control flow between them."""

    modules: Mapping[str, tvm.IRModule] = field(default_factory=dict)
    control: tuple[Control, ...] = ()


def result_type(control: Control) -> Expr:
    """What a branch or a loop returns."""
    if isinstance(control, Branch):
        return control.result
    any_list = [relax.AnyType()] * control.rows
    return relax.TupleType([scalar("int64"), scalar("bool"), *control.state, *any_list])


def scalar(dtype: str) -> Expr:
    """The type of a number."""
    return relax.TensorType((), dtype)


def call(control: Control, arguments: list[Expr]) -> Expr:
    """A call of a branch or a loop, for a part."""
    return relax.op.call_pure_packed(control.name, *arguments, ty_args=result_type(control))
