"""Extract sub-graphs that cannot be compiled, for ONNX Runtime: as few and as large as the graph allows.

A node's level is the number of switches between compiled and uncompiled nodes on the way to it. All uncompiled nodes
of one level form one segment, which then depends on no other segment of that level.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Mapping

from onnx import GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto, helper

from edgec.compiler.frontends.onnx.graphs import free_names
from edgec.compiler.frontends.source import FallbackSegment

FUNCTION_PREFIX = "edgec.fallback."


class UntypedValue(ValueError):
    """An input of a segment has no known type."""


def plan(graph: GraphProto, uncompiled: Collection[int]) -> list[list[int]]:
    """Order a graph's nodes into steps: a compiled node alone, or the uncompiled nodes of one level together.

    Args:
        uncompiled: positions of the nodes that cannot be compiled.
    """
    makers = {name: i for i, node in enumerate(graph.node) for name in node.output if name}
    levels: list[int] = []
    for i, node in enumerate(graph.node):
        before = {makers[name] for name in free_names(node) if name in makers}
        changes = [levels[b] + ((b in uncompiled) != (i in uncompiled)) for b in before]
        # compiled nodes have even levels, from 0 on, and uncompiled ones odd levels
        levels.append(max(changes, default=0) if changes else int(i in uncompiled))
        if levels[i] % 2 != int(i in uncompiled):
            levels[i] += 1
    steps: list[list[int]] = []
    open_segments: dict[int, list[int]] = {}
    for i in sorted(range(len(levels)), key=lambda i: (levels[i], i)):
        if i not in uncompiled:
            steps.append([i])
        elif levels[i] in open_segments:
            open_segments[levels[i]].append(i)
        else:
            open_segments[levels[i]] = [i]
            steps.append(open_segments[levels[i]])
    return steps


def with_makers(graph: GraphProto, uncompiled: Iterable[int], lists: Collection[str]) -> set[int]:
    """The uncompiled nodes, and those that make or change a sequence (of names `lists`) that one of them reads.

    Only tensors pass between compiled code and ONNX Runtime.
    """
    taken = set(uncompiled)
    makers = {name: i for i, node in enumerate(graph.node) for name in node.output if name}
    waiting = list(taken)
    while waiting:
        for name in free_names(graph.node[waiting.pop()]) & set(lists):
            if name in makers and makers[name] not in taken:
                taken.add(makers[name])
                waiting.append(makers[name])
    return taken


def widen(graph: GraphProto, uncompiled: Iterable[int], movers: Collection[str]) -> set[int]:
    """The uncompiled nodes, and cheap compiled ones (types `movers`) whose neighbours are all uncompiled.

    Compiling those would only add a switch to ONNX Runtime and back on either side.
    """
    taken = set(uncompiled)
    makers = {name: i for i, node in enumerate(graph.node) for name in node.output if name}
    readers: dict[int, set[int]] = {}
    for i, node in enumerate(graph.node):
        for name in free_names(node):
            if name in makers:
                readers.setdefault(makers[name], set()).add(i)
    results = {value.name for value in graph.output}
    for i, node in enumerate(graph.node):
        before = {makers[name] for name in free_names(node) if name in makers}
        after = readers.get(i, set())
        inside = bool(before) and bool(after) and before <= taken and after <= taken
        if node.op_type in movers and inside and not results.intersection(node.output):
            taken.add(i)
    return taken


def cut(
    model: ModelProto,
    members: list[int],
    types: Mapping[str, ValueInfoProto],
    labels: Mapping[int, str],
) -> FallbackSegment:
    """Make a segment of some nodes of a model.

    Args:
        model: the cleaned model.
        members: positions of the nodes.
        types: the types of values that are inputs of the segment.
        labels: the name of each node in the source model.

    Raises:
        UntypedValue: the type of an input is not known.
    """
    graph = model.graph
    nodes = [graph.node[i] for i in members]
    made = {name for node in nodes for name in node.output if name}
    stored = {tensor.name: tensor for tensor in graph.initializer}
    needed = list(dict.fromkeys(n for node in nodes for n in _ordered_names(node) if n not in made))
    outside = {n for i, node in enumerate(graph.node) if i not in set(members) for n in free_names(node)}
    outside |= {value.name for value in graph.output}
    results = [n for node in nodes for n in node.output if n in outside]
    inputs = [n for n in needed if n not in stored]
    for name in inputs:
        if name not in types:
            raise UntypedValue(
                f"the type of the value {name!r}, which would be passed to ONNX Runtime, is unknown"
            )
    piece = helper.make_graph(
        nodes,
        "fallback",
        [types[n] for n in inputs],
        [_untyped(n, types) for n in results],
        [stored[n] for n in needed if n in stored],
    )
    whole = helper.make_model(piece, opset_imports=list(model.opset_import), producer_name="edgec")
    whole.ir_version = model.ir_version
    content = whole.SerializeToString(deterministic=True)
    name = FUNCTION_PREFIX + hashlib.sha256(content).hexdigest()[:24]
    told = tuple(dict.fromkeys(labels[i] for i in members))
    return FallbackSegment(name, content, tuple(inputs), tuple(results), told)


def _ordered_names(node: NodeProto) -> list[str]:
    return [*(n for n in node.input if n), *sorted(free_names(node) - set(node.input))]


def _untyped(name: str, types: Mapping[str, ValueInfoProto]) -> ValueInfoProto:
    value = types.get(name)
    return value if value is not None else ValueInfoProto(name=name)


def value_type(name: str, dtype: int, shape: Iterable[int] | None) -> ValueInfoProto:
    """The declaration of a tensor."""
    return helper.make_tensor_value_info(name, dtype, None if shape is None else list(shape))


def is_tensor(value: ValueInfoProto | None) -> bool:
    """Whether a value is declared as a tensor of numbers."""
    if value is None or value.type.WhichOneof("value") != "tensor_type":
        return False
    return value.type.tensor_type.elem_type not in (TensorProto.UNDEFINED, TensorProto.STRING)
