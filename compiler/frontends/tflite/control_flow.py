"""IF, WHILE and calls: the graphs that operators call, as sub-graphs of ONNX's If and Loop."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from onnx import GraphProto, TensorProto, ValueInfoProto, helper

from edgec.compiler.frontends.tflite import variables
from edgec.compiler.frontends.tflite.flat import Graph, Operator, Tensor
from edgec.compiler.frontends.tflite.graph import Refused, Writer, is_quantised
from edgec.compiler.frontends.tflite.registry import convert_operators, converts

Argument: TypeAlias = str | Tensor  # a value's name, or a constant


def arguments_of(g: Writer, indices: Sequence[int]) -> list[Argument]:
    """What an operator passes to a graph."""
    return [g.tensor(index) if g.is_constant(index) else g.get(index) for index in indices]


def called(g: Writer, number: int, arguments: Sequence[Argument]) -> Writer:
    """Convert a graph that an operator calls.

    Args:
        number: of the graph in the file.
        arguments: the values of its inputs, in the source's order of axes; real numbers for quantised tensors.

    Raises:
        Refused: it takes another number of inputs, or operators in it cannot be converted.
    """
    inner = Writer(g.model, number, g)
    if len(inner.graph.inputs) != len(arguments):
        raise Refused(f"graph {number} takes {len(inner.graph.inputs)} inputs, and gets {len(arguments)}")
    for index, argument in zip(inner.graph.inputs, arguments, strict=True):
        if isinstance(argument, str):
            inner.native[index] = argument
        else:
            inner.known[index] = argument
    failed = convert_operators(inner, g.prefix)
    if failed:
        operator, reason = failed[0]
        raise Refused(f"in graph {number}, {operator.kind} (operator {operator.index}): {reason}")
    return inner


def results(inner: Writer, count: int, wanted: Sequence[int] | None = None) -> list[str]:
    """The values of a called graph's outputs; each is a node's own, as ONNX requires of a sub-graph.

    Args:
        count: how many it has to have.
        wanted: the places of those that are values; all by default.
    """
    if len(inner.graph.outputs) < count:
        raise Refused(f"a graph that it calls has {len(inner.graph.outputs)} outputs, and {count} are read")
    inner.prefix = f"{inner.prefix}_out"
    places = range(count) if wanted is None else wanted
    return [inner.op("Identity", inner.get(inner.graph.outputs[k])) for k in places]


def real_type(tensor: Tensor) -> int:
    """ONNX's number of the type in which a tensor's values are computed."""
    if is_quantised(tensor) or tensor.dtype == "float16":
        return int(TensorProto.FLOAT)
    try:
        return int(helper.np_dtype_to_tensor_dtype(np.dtype(tensor.dtype)))
    except TypeError as error:
        raise Refused(f"its tensor {tensor.name!r} holds {tensor.dtype}") from error


def _untyped(name: str) -> ValueInfoProto:
    return ValueInfoProto(name=name)


def _branch(g: Writer, number: int, op: Operator, arguments: Sequence[Argument], name: str) -> GraphProto:
    before = variables.values(g)
    inner = called(g, number, arguments)
    variables.require_same(g, before)
    outputs = results(inner, len(op.outputs))
    typed = [
        helper.make_tensor_value_info(output, real_type(g.tensor(index)), None)
        for output, index in zip(outputs, op.outputs, strict=True)
    ]
    return helper.make_graph(inner.nodes, name, [], typed)


def _bind(g: Writer, op: Operator, names: str | Sequence[str]) -> None:
    for index, name in zip(op.outputs, [names] if isinstance(names, str) else names, strict=True):
        g.put(index, name, exact=True)


@converts("IF", inputs=(1, None), outputs=(1, None))
def _if(g: Writer, op: Operator) -> None:
    arguments = arguments_of(g, op.inputs[1:])
    condition = g.op("Reshape", g.get(op.inputs[0]), np.zeros(0, np.int64))
    before, inners, after = variables.values(g), [], []
    for number in (int(op.options.thenSubgraphIndex), int(op.options.elseSubgraphIndex)):
        inners.append(called(g, number, arguments))
        after.append(variables.values(g))
        variables.restore(g, before)
    changed = variables.changed(g, after)
    branches = []
    for inner, values in zip(inners, after, strict=True):
        outputs = results(inner, len(op.outputs))
        typed = [
            helper.make_tensor_value_info(output, real_type(g.tensor(index)), None)
            for output, index in zip(outputs, op.outputs, strict=True)
        ]
        for variable in changed:  # those that this branch leaves alone stay what they are
            value = values.get(variable.name) or variable.value
            typed.append(variables.typed(variable, inner.op("Identity", value)))
        branches.append(helper.make_graph(inner.nodes, f"{inner.prefix}_branch", [], typed))
    count = len(op.outputs) + len(changed)
    then, other = branches
    made = g.op("If", condition, outputs=count, then_branch=then, else_branch=other)
    made = [made] if count == 1 else made
    _bind(g, op, made[: len(op.outputs)])
    for variable, value in zip(changed, made[len(op.outputs) :], strict=True):
        variable.value, variable.assigned = value, True


@converts("STABLEHLO_CASE", inputs=(1, None), outputs=(1, None))
def _case(g: Writer, op: Operator) -> None:
    """Nested Ifs; an index out of range takes the last branch."""
    arguments = arguments_of(g, op.inputs[1:])
    numbers = [int(n) for n in op.options.branchSubgraphIndices]
    chosen = g.op("Reshape", g.get(op.inputs[0]), np.zeros(0, np.int64))
    names = [_branch(g, n, op, arguments, f"{op.kind}_{op.index}_{n}") for n in numbers]
    if not names:
        raise Refused("it has no branches")
    rest = names[-1]
    for position in range(len(names) - 2, -1, -1):
        test = g.op("Equal", chosen, np.array(position, np.int32))
        made = [f"{g.prefix}_case_{position}_{k}" for k in range(len(op.outputs))]
        node = helper.make_node("If", [test], made, then_branch=names[position], else_branch=rest)
        node.name = f"{g.prefix}/If_{position}"
        if position == 0:
            g.nodes.append(node)
            _bind(g, op, made)
            return
        typed = [
            helper.make_tensor_value_info(name, real_type(g.tensor(index)), None)
            for name, index in zip(made, op.outputs, strict=True)
        ]
        # the test is computed outside, where every branch sees it
        rest = helper.make_graph([node], f"{op.kind}_{op.index}_rest_{position}", [], typed)
    inner = called(g, numbers[0], arguments)
    g.nodes.extend(inner.nodes)
    _bind(g, op, [inner.get(index) for index in inner.graph.outputs])


@converts("STABLEHLO_COMPOSITE", inputs=(0, None), outputs=(1, None))
def _composite(g: Writer, op: Operator) -> None:
    """The graph that it is composed of, in its place."""
    inner = called(g, int(op.options.decompositionSubgraphIndex), arguments_of(g, op.inputs))
    g.nodes.extend(inner.nodes)
    _bind(g, op, [inner.get(index) for index in inner.graph.outputs[: len(op.outputs)]])


@dataclass(frozen=True)
class Counter:
    """A loop's variable that counts in steps of one up to a limit known at compile time."""

    position: int
    count: int


@converts("WHILE", inputs=(1, None), outputs=(1, None))
def _while(g: Writer, op: Operator) -> None:
    numbers = (int(op.options.condSubgraphIndex), int(op.options.bodySubgraphIndex))
    if len(op.inputs) != len(op.outputs):
        raise Refused(f"it takes {len(op.inputs)} values and returns {len(op.outputs)}")
    start = [g.get(index) for index in op.inputs]
    own = [k for k, name in enumerate(start) if not name.startswith(variables.HANDLE)]
    counter = _counter(g, op, *numbers)
    states = [f"{g.prefix}_state_{k}" if k in own else name for k, name in enumerate(start)]
    passed = _passed(g, op, numbers[1], states)
    prefix = f"{g.prefix}_loop"
    before = variables.values(g)
    body = called(g, numbers[1], passed)
    after_body = variables.values(g)
    variables.restore(g, before)
    changed = variables.changed(g, [after_body])
    begin = [start[k] for k in own] + [variable.value for variable in changed]
    first = "" if counter else _holds(g, _tested(g, numbers[0], start))
    carried = [f"{prefix}_variable_{k}" for k in range(len(changed))]
    if changed:  # now that it is known what the iterations hand on
        for variable, name in zip(changed, carried, strict=True):
            variable.value = name
        body = called(g, numbers[1], passed)
    made = results(body, len(states), own)
    values = dict(zip(own, made, strict=True))
    after = [values.get(k, name) for k, name in enumerate(start)]
    if counter is None:
        goes_on = _holds(body, _tested(g, numbers[0], after))
    else:
        goes_on = f"{prefix}_kept"
        body.nodes.append(helper.make_node("Identity", [f"{prefix}_condition"], [goes_on]))
    typed = [helper.make_tensor_value_info(f"{prefix}_number", TensorProto.INT64, [])]
    typed.append(helper.make_tensor_value_info(f"{prefix}_condition", TensorProto.BOOL, []))
    typed += [
        helper.make_tensor_value_info(
            states[k], real_type(g.tensor(op.inputs[k])), _fixed(g, op, op.inputs[k], k)
        )
        for k in own
    ]
    told = [helper.make_tensor_value_info(goes_on, TensorProto.BOOL, [])]
    told += [helper.make_tensor_value_info(values[k], real_type(g.tensor(op.outputs[k])), None) for k in own]
    for variable, name in zip(changed, carried, strict=True):
        typed.append(variables.typed(variable, name, fixed=True))
        told.append(variables.typed(variable, body.op("Identity", variable.value)))
    graph = helper.make_graph(body.nodes, f"{op.kind}_{op.index}", typed, told)
    trips = "" if counter is None else g.constant(np.array(counter.count, np.int64))
    found = g.op("Loop", trips, first, *begin, outputs=len(begin), body=graph)
    found = [found] if isinstance(found, str) else list(found)
    for k, name in zip(own, found, strict=False):
        g.put(op.outputs[k], name, exact=True)
    for k in set(range(len(start))) - set(own):
        if body.get(body.graph.outputs[k]) != start[k]:
            raise Refused("its body returns another variable than it was given")
        g.native[op.outputs[k]] = start[k]
    for variable, name in zip(changed, found[len(own) :], strict=True):
        variable.value, variable.assigned = name, True


def _tested(g: Writer, number: int, arguments: Sequence[Argument]) -> Writer:
    """A loop's condition, which assigns to no variable."""
    before = variables.values(g)
    condition = called(g, number, arguments)
    variables.require_same(g, before)
    return condition


def _passed(g: Writer, op: Operator, number: int, states: Sequence[str]) -> list[Argument]:
    """What the body gets: constants that every iteration passes on stay constants."""
    if not 0 <= number < len(g.model.graphs):
        return list(states)
    body = g.model.graphs[number]
    same = [a == b for a, b in zip(body.inputs, body.outputs, strict=False)]
    return [
        g.tensor(index) if kept and g.is_constant(index) else name
        for index, name, kept in zip(op.inputs, states, same, strict=False)
    ]


def _fixed(g: Writer, op: Operator, index: int, position: int) -> tuple[int, ...] | None:
    """The shape of a state, where it is the same in every iteration."""
    before, after = g.tensor(index).shape, g.tensor(op.outputs[position]).shape
    return before if before == after else None


def _holds(g: Writer, condition: Writer) -> str:
    """The value of a condition's graph, whose nodes are appended."""
    value = condition.get(condition.graph.outputs[0])
    value = condition.op("Reshape", value, np.zeros(0, np.int64))
    g.nodes.extend(condition.nodes)
    return str(value)


def _counter(g: Writer, op: Operator, condition: int, body: int) -> Counter | None:
    """The count of a loop of the form `for i in range(start, limit)`, or None for another one.

    Such a loop can be unrolled. The condition has to be `i < limit` or a conjunction of several; the shortest counts.
    """
    if not (0 <= condition < len(g.model.graphs) and 0 <= body < len(g.model.graphs)):
        return None
    test, step = g.model.graphs[condition], g.model.graphs[body]
    makers = {out: one for one in test.operators for out in one.outputs}
    found: list[Counter] = []
    pending = list(test.outputs[:1])
    while pending:
        maker = makers.get(pending.pop())
        if maker is None:
            return None
        if maker.kind == "LOGICAL_AND":
            pending += maker.inputs
            continue
        if maker.kind != "LESS" or len(maker.inputs) != 2 or maker.inputs[0] not in test.inputs:
            return None
        position = test.inputs.index(maker.inputs[0])
        limit = _known(g, op, test.tensors[maker.inputs[1]], test.inputs, maker.inputs[1], step)
        if position >= len(op.inputs) or limit is None:
            return None
        start = g.tensor(op.inputs[position]).data
        if start is None or not _counts_by_one(step, position):
            return None
        found.append(Counter(position, max(int(limit) - int(start.reshape(-1)[0]), 0)))
    return min(found, key=lambda one: one.count, default=None)


def _known(
    g: Writer, op: Operator, tensor: Tensor, inputs: tuple[int, ...], index: int, step: Graph
) -> int | None:
    """The value of a limit: a constant of the condition, or a constant that every iteration passes on."""
    if tensor.data is not None and tensor.data.size == 1:
        return int(tensor.data.reshape(-1)[0])
    if index not in inputs or inputs.index(index) >= len(op.inputs):
        return None
    position = inputs.index(index)
    outer = g.tensor(op.inputs[position]).data
    passed = step.inputs[position] == step.outputs[position]
    return int(outer.reshape(-1)[0]) if outer is not None and outer.size == 1 and passed else None


def _counts_by_one(step: Graph, position: int) -> bool:
    if position >= min(len(step.inputs), len(step.outputs)):
        return False
    for one in step.operators:
        if step.outputs[position] in one.outputs and one.kind in ("ADD", "STABLEHLO_ADD"):
            other = [index for index in one.inputs if index != step.inputs[position]]
            data = step.tensors[other[0]].data if len(other) == 1 else None
            return step.inputs[position] in one.inputs and data is not None and bool((data == 1).all())
    return False
