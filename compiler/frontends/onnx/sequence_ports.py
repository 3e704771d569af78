"""Sequences and optional values among a model's inputs and outputs become tensors, the only ports of an artifact.

A sequence `s` of three elements becomes the tensors `s.0`, `s.1` and `s.2`. Of an input, the caller says how many there
are, by giving the sizes of each (`--input s.0:3x4 --input s.1:3x4`), or there is one; of an output, the graph says it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import GraphProto, ModelProto, NodeProto, TypeProto, ValueInfoProto, helper, numpy_helper

from edgec.compiler.errors import ModelError
from edgec.compiler.options import Shape

MOST = 1024  # elements that become ports
Array = npt.NDArray[Any]
Lengths = Mapping[str, int]
_NONE: Lengths = {}


def take_inputs(model: ModelProto, asked: Mapping[str, Shape]) -> list[str]:
    """Make each input that is a sequence (or an optional one) tensors, in place.

    Returns:
        what was chosen where the caller does not say it, one sentence an input.
    """
    graph, told = model.graph, list[str]()
    inputs = [ValueInfoProto.FromString(value.SerializeToString()) for value in graph.input]
    kept: list[ValueInfoProto] = []
    made: list[NodeProto] = []
    for value in inputs:
        element = _element(value.type)
        if element is None:
            kept.append(value)
            continue
        count = next(k for k in range(MOST + 1) if f"{value.name}.{k}" not in asked)
        if not count:
            count = 1
            told.append(
                f"the input {value.name!r} is a sequence, which is now one tensor, {value.name + '.0'!r}: "
                f"--input {value.name}.0:… --input {value.name}.1:… takes more"
            )
        names = [f"{value.name}.{k}" for k in range(count)]
        kept += [ValueInfoProto(name=name, type=element) for name in names]
        for one in kept[-count:]:
            for dim in one.type.tensor_type.shape.dim:
                dim.ClearField("dim_param")  # elements may differ in what the model gives a name
        optional = value.type.HasField("optional_type")
        whole = f"{value.name}.sequence" if optional else value.name
        made.append(helper.make_node("SequenceConstruct", names, [whole], name=f"{value.name}.sequence"))
        if optional:
            made.append(helper.make_node("Optional", [whole], [value.name], name=f"{value.name}.optional"))
    if made:
        del graph.input[:]
        graph.input.extend(kept)
        _put_first(graph, made)
    return told


def give_outputs(model: ModelProto, inferred: ModelProto) -> None:
    """Make each output that is a sequence tensors, in place, and an optional tensor a tensor.

    Args:
        model: it is changed.
        inferred: the same with the shapes of its values, as far as they are known.

    Raises:
        ModelError: the length of a sequence only shows at run time, or it is empty.
    """
    graph = model.graph
    outputs = [ValueInfoProto.FromString(value.SerializeToString()) for value in graph.output]
    kept: list[ValueInfoProto] = []
    for value in outputs:
        inner = value.type.optional_type.elem_type if value.type.HasField("optional_type") else None
        if inner is not None and inner.HasField("tensor_type"):
            kept.append(_unwrapped(graph, value, inner))
            continue
        element = _element(value.type)
        kept += [value] if element is None else _elements(graph, inferred.graph, value, element)
    if kept != outputs:
        del graph.output[:]
        graph.output.extend(kept)


def _element(kind: TypeProto) -> TypeProto | None:
    """The type of the elements of a sequence of tensors, which may be optional; None for any other type."""
    if kind.HasField("optional_type"):
        kind = kind.optional_type.elem_type
    element = kind.sequence_type.elem_type if kind.HasField("sequence_type") else None
    return element if element is not None and element.HasField("tensor_type") else None


def _unwrapped(graph: GraphProto, value: ValueInfoProto, inner: TypeProto) -> ValueInfoProto:
    """The tensor in an optional output, under its name."""
    held = f"{value.name}.optional"
    _rename(graph, value.name, held)
    graph.node.append(helper.make_node("OptionalGetElement", [held], [value.name], name=held))
    return ValueInfoProto(name=value.name, type=inner)


def _elements(
    graph: GraphProto, inferred: GraphProto, value: ValueInfoProto, element: TypeProto
) -> list[ValueInfoProto]:
    count = _length(inferred, value.name, ())
    if count is None or count > MOST:
        what = f"has {count} elements" if count else "has a length that only shows at run time"
        raise ModelError(
            f"the output {value.name!r} is a sequence that {what}, and an artifact has a fixed list of tensors\n"
            "Join it with ConcatFromSequence, or cut the model before the node that makes it."
        )
    if not count:
        raise ModelError(
            f"the output {value.name!r} is a sequence that is always empty: remove it from the model"
        )
    sequence = value.name
    if value.type.HasField("optional_type"):
        sequence = f"{value.name}.sequence"
        graph.node.append(helper.make_node("OptionalGetElement", [value.name], [sequence], name=sequence))
    made = []
    for k in range(count):
        index = numpy_helper.from_array(np.array(k, np.int64), f"{value.name}.{k}.index")
        graph.initializer.append(index)
        name = f"{value.name}.{k}"
        graph.node.append(helper.make_node("SequenceAt", [sequence, index.name], [name], name=name))
        made.append(ValueInfoProto(name=name, type=TypeProto.FromString(element.SerializeToString())))
        made[-1].type.tensor_type.ClearField("shape")
    return made


def _length(
    graph: GraphProto, name: str, outer: tuple[GraphProto, ...], given: Lengths = _NONE
) -> int | None:
    """The number of elements of a sequence, if the graph says it.

    Args:
        graph: in which the name stands, a body or a branch within `outer`.
        name: of the sequence.
        outer: the graphs around it, from outside.
        given: lengths that are known already, as of what a loop carries.
    """
    if name in given:
        return given[name]
    node = next((n for n in graph.node if name in n.output), None)
    if node is None:
        return _length(outer[-1], name, outer[:-1], given) if outer else None
    kind = node.op_type
    if kind == "SequenceConstruct":
        return len(node.input)
    if kind == "SequenceEmpty":
        return 0
    if kind in ("SequenceInsert", "SequenceErase"):
        before = _length(graph, node.input[0], outer, given)
        return None if before is None else before + (1 if kind == "SequenceInsert" else -1)
    if kind in ("Identity", "Optional", "OptionalGetElement", "SequenceMap") and node.input:
        return _length(graph, node.input[0], outer, given)
    if kind == "If":
        place = list(node.output).index(name)
        branches = [a.g for a in node.attribute if a.name in ("then_branch", "else_branch")]
        found = {_length(branch, branch.output[place].name, (*outer, graph), given) for branch in branches}
        return found.pop() if len(found) == 1 else None
    if kind == "Loop":
        return _collected(graph, node, list(node.output).index(name), outer, given)
    return _parts(graph, node) if kind == "SplitToSequence" else None


def _collected(
    graph: GraphProto, node: NodeProto, place: int, outer: tuple[GraphProto, ...], given: Lengths
) -> int | None:
    """The length of a sequence that a loop carries: the same number of elements comes in each of so many rounds."""
    body = next(a.g for a in node.attribute if a.name == "body")
    if place + 2 >= len(node.input):
        return None
    before, rounds = (
        _length(graph, node.input[place + 2], outer, given),
        _rounds(graph, node, body, outer, given),
    )
    if before is None or rounds is None:
        return None
    inside = {**given, body.input[place + 2].name: before}
    after = _length(body, body.output[place + 1].name, (*outer, graph), inside)
    return None if after is None else before + rounds * (after - before)


def _rounds(
    graph: GraphProto, node: NodeProto, body: GraphProto, outer: tuple[GraphProto, ...], given: Lengths
) -> int | None:
    """How often a loop runs, if it counts only."""
    begins = _constant(graph, node.input[1]) if node.input[1] else np.array(True)
    goes_on = _origin(body, body.output[0].name)
    always = goes_on == body.input[1].name or _is_true(_constant(body, goes_on))
    count = _number(graph, _origin(graph, node.input[0]), outer, given)
    return count if always and _is_true(begins) else None


def _number(graph: GraphProto, name: str, outer: tuple[GraphProto, ...], given: Lengths) -> int | None:
    """A whole number that is a constant or the length of a sequence."""
    held = _constant(graph, name)
    if held is not None:
        return int(held.reshape(-1)[0]) if held.size == 1 else None
    node = next((n for n in graph.node if name in n.output), None)
    if node is None or node.op_type != "SequenceLength":
        return None
    return _length(graph, node.input[0], outer, given)


def _origin(graph: GraphProto, name: str) -> str:
    """The value that is handed on under this name."""
    while True:
        node = next((n for n in graph.node if name in n.output and n.op_type == "Identity"), None)
        if node is None:
            return name
        name = node.input[0]


def _is_true(value: Array | None) -> bool:
    return value is not None and value.size == 1 and bool(value.reshape(-1)[0])


def _parts(graph: GraphProto, node: NodeProto) -> int | None:
    """How many parts a SplitToSequence makes."""
    axis = next((a.i for a in node.attribute if a.name == "axis"), 0)
    shape = _shape(graph, node.input[0])
    size = shape[axis] if shape is not None and -len(shape) <= axis < len(shape) else None
    if len(node.input) < 2 or not node.input[1]:
        return size
    split = _constant(graph, node.input[1])
    if split is None:
        known = _shape(graph, node.input[1])
        return known[0] if known else None
    if split.ndim:
        return len(split)
    return None if size is None or split < 1 else -(-size // int(split))


def _shape(graph: GraphProto, name: str) -> list[int | None] | None:
    for value in (*graph.input, *graph.value_info, *graph.output):
        if value.name == name and value.type.tensor_type.HasField("shape"):
            dims = value.type.tensor_type.shape.dim
            return [dim.dim_value if dim.HasField("dim_value") else None for dim in dims]
    held = _constant(graph, name)
    return None if held is None else list(held.shape)


def _constant(graph: GraphProto, name: str) -> Array | None:
    for tensor in graph.initializer:
        if tensor.name == name:
            return np.asarray(numpy_helper.to_array(tensor))
    for node in graph.node:
        if name in node.output and node.op_type == "Constant":
            held = next((a.t for a in node.attribute if a.name == "value"), None)
            return None if held is None else np.asarray(numpy_helper.to_array(held))
    return None


def _rename(graph: GraphProto, old: str, new: str) -> None:
    for node in graph.node:
        for names in (node.input, node.output):
            names[:] = [new if name == old else name for name in names]


def _put_first(graph: GraphProto, made: Iterable[NodeProto]) -> None:
    nodes = [*made, *(NodeProto.FromString(node.SerializeToString()) for node in graph.node)]
    del graph.node[:]
    graph.node.extend(nodes)
