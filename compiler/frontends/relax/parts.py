"""Branches and bodies of loops as functions of their own: what they read from outside becomes a parameter."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import tvm
from onnx import GraphProto
from tvm import relax

from edgec.compiler.frontends.relax.builder import Expr, SourceBuilder
from edgec.compiler.frontends.relax.converters.registry import CannotConvert, dtype_of, is_constant
from edgec.compiler.frontends.relax.dims import (
    Dim,
    cast_to,
    dims_of,
    fresh,
    is_same,
    is_static,
    loose,
    replaced,
    variables,
)
from edgec.compiler.frontends.relax.lists import NO_TENSOR, Absent, RuntimeList, TensorList

Value = Any  # an expression, or one of `lists`


class Importer(Protocol):
    """What parts need of the importer that imports their graphs.

    Attributes:
        builder: where calls are emitted at present.
        known: integers that follow from shapes, by the tensor that holds them.
    """

    builder: SourceBuilder
    known: dict[Expr, list[Dim]]

    def limit(self, var: Expr, like: Dim) -> None:
        """Note that a symbolic size has the limits of another one."""

    def import_graph(
        self, graph: GraphProto, outer: MutableMapping[str, Expr], arguments: Sequence[Expr]
    ) -> list[Expr]:
        """Import a graph with its inputs bound to `arguments`, and return its outputs."""


@dataclass(frozen=True)
class Argument:
    """What the caller of a part passes for an input of its graph.

    Attributes:
        dtype: element type.
        sizes: those of the caller, None for one that differs from call to call; None of all for a list.
        rank: of a list's tensors.
    """

    dtype: str
    sizes: tuple[Dim | None, ...] | None
    rank: int = 0

    @property
    def type(self) -> Expr:
        """The type of the parameter: static where all sizes are numbers."""
        if self.sizes is None:
            return relax.AnyType()
        if all(isinstance(one, int) for one in self.sizes):
            return relax.TensorType(list(self.sizes), self.dtype)
        return loose(len(self.sizes), self.dtype)


def argument_of(value: Value) -> Argument:
    """The argument that a value is."""
    if isinstance(value, RuntimeList):
        return Argument(value.dtype, None, value.rank)
    return Argument(dtype_of(value), tuple(dims_of(value)))


class Frame(MutableMapping[str, Value]):
    """The values that a part can name: its own, and those around it, which become parameters when they are read."""

    def __init__(self, importer: Importer, outer: Mapping[str, Value]) -> None:
        self.importer, self.outer = importer, outer
        self.builder = SourceBuilder()
        self.builder.prefix = importer.builder.prefix
        self.own: dict[str, Value] = {}
        self.params: list[Expr] = []
        self.sources: list[Expr] = []  # outer values, by parameter, behind the arguments
        self.types: list[Expr] = []  # of the parameters
        self._taken: dict[Expr, Value] = {}
        self._sizes: list[tuple[Expr, Expr]] = []  # outer sizes, and the variables that hold them here

    def __getitem__(self, name: str) -> Value:
        if name not in self.own:
            self.own[name] = self._take(self.outer[name])
        return self.own[name]

    def __setitem__(self, name: str, value: Value) -> None:
        self.own[name] = value

    def __delitem__(self, name: str) -> None:
        del self.own[name]

    def __iter__(self) -> Iterator[str]:
        return iter({**dict.fromkeys(self.outer), **self.own})

    def __len__(self) -> int:
        return len(dict.fromkeys([*self.outer, *self.own]))

    def add(self, argument: Argument) -> Value:
        """A parameter for an argument."""
        param = self._param(argument.type)
        if argument.sizes is None:
            return RuntimeList(param, argument.dtype, argument.rank)
        if is_static(param):
            return param
        sizes = [fresh("v") if one is None else self.inside(one) for one in argument.sizes]
        return cast_to(self.builder, param, sizes, argument.dtype)

    def inside(self, outer: Dim) -> Dim:
        """The size that this part knows an outer one by."""
        if isinstance(outer, int):
            return outer
        for known, own in self._sizes:
            if is_same(known, outer):
                return own
        own = fresh("s")
        self.importer.limit(own, outer)
        self._sizes.append((outer, own))
        return own

    def outside(self, inner: Dim) -> Dim | None:
        """The size that the caller knows an inner one by; None where it does not."""
        if isinstance(inner, int):
            return inner
        names = {own: outer for outer, own in self._sizes}
        return replaced(inner, names) if all(var in names for var in variables(inner)) else None

    def _param(self, kind: Expr) -> Expr:
        param = relax.Var(f"p{len(self.params)}", kind)
        self.params.append(param)
        self.types.append(kind)
        return param

    def _take(self, value: Value) -> Value:
        if isinstance(value, TensorList):
            return TensorList(tuple(self._take(item) for item in value.items), value.dtype)
        if isinstance(value, Absent) or (not isinstance(value, NO_TENSOR) and is_constant(value)):
            return value
        key = value.value if isinstance(value, RuntimeList) else value
        if key not in self._taken:
            self._taken[key] = self.add(argument_of(value))
            self.sources.append(key)
            known = self.importer.known.get(key)
            inner = None if known is None else [self._known(one) for one in known]
            if inner is not None and None not in inner:
                self.importer.known[self._taken[key]] = inner
        return self._taken[key]

    def _known(self, outer: Dim) -> Dim | None:
        if isinstance(outer, int):
            return outer
        return next((own for known, own in self._sizes if is_same(known, outer)), None)


@dataclass
class Part:
    """An imported part.

    Attributes:
        name: of the part.
        frame: its parameters.
        results: what it returns.
        arguments: how many of its parameters are arguments; the others are `frame.sources`.
        mod: its module.
    """

    name: str
    frame: Frame
    results: list[Value]
    arguments: int
    mod: tvm.IRModule
    given: list[Value] = field(default_factory=list)

    @property
    def reads(self) -> tuple[Expr, ...]:
        """The types of what it reads from outside."""
        return tuple(self.frame.types[self.arguments :])


def import_part(
    importer: Importer,
    graph: GraphProto,
    outer: Mapping[str, Value],
    arguments: Sequence[Argument],
    name: str,
) -> Part:
    """Import a graph as a function `main` in a module of its own.

    Args:
        importer: whose builder is the caller's.
        graph: of a branch or a body.
        outer: the values around it.
        arguments: what the caller passes for the inputs of the graph.
        name: of the part.

    Raises:
        CannotConvert: a node of it cannot be converted.
    """
    frame = Frame(importer, outer)
    builder, importer.builder = importer.builder, frame.builder
    try:
        with frame.builder.function("main"):
            with frame.builder.dataflow():
                given = [frame.add(argument) for argument in arguments]
                results = importer.import_graph(graph, frame, given)
                results = [
                    runtime_list(frame.builder, r) if isinstance(r, TensorList) else r for r in results
                ]
                if any(isinstance(r, Absent) for r in results):
                    raise CannotConvert("a branch returns an optional value without an element")
                fields = [r.value if isinstance(r, RuntimeList) else r for r in results]
                output = frame.builder.emit_output(relax.Tuple(fields))
            frame.builder.emit_func_output(output, frame.params)
    finally:
        importer.builder = builder
    return Part(name, frame, results, len(arguments), frame.builder.get(), given)


def runtime_list(builder: SourceBuilder, value: TensorList | RuntimeList) -> RuntimeList:
    """A list as an object of the run.

    Raises:
        CannotConvert: its tensors differ in their rank.
    """
    if isinstance(value, RuntimeList):
        return value
    ranks = {len(dims_of(item)) for item in value.items}
    if len(ranks) > 1:
        raise CannotConvert("the tensors of a sequence have different ranks")
    made = builder.emit(
        relax.op.call_pure_packed("edgec.sequence.construct", *value.items, ty_args=relax.AnyType())
    )
    return RuntimeList(made, value.dtype, ranks.pop() if ranks else -1)


def failing_part(other: Part, name: str, why: str) -> Part:
    """A part that fails when it runs, in place of a branch beside `other`."""
    frame = Frame(other.frame.importer, {})
    kinds = [_open_type(value) for value in other.results]
    with frame.builder.function("main", []):
        with frame.builder.dataflow():
            called = relax.op.call_pure_packed(
                "edgec.sequence.fail", tvm.ir.StringImm(why), ty_args=relax.TupleType(kinds)
            )
            output = frame.builder.emit_output(called)
        frame.builder.emit_func_output(output)
    return Part(name, frame, [Absent()] * len(kinds), 0, frame.builder.get())


def _open_type(value: Value) -> Expr:
    if isinstance(value, RuntimeList):
        return relax.AnyType()
    return value.ty if is_static(value) else loose(len(dims_of(value)), dtype_of(value))
