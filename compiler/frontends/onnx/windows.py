"""States that grow by a step in each run (`past_key_values` and `present`), kept at a fixed length: the last entries.

A decoder returns its keys and values with those of the new tokens appended. Compiled shapes are static, so the state is
a window of as many entries as its input has, and the oldest fall out. Entries that are not filled yet have to be masked
by the caller (`attention_mask`), as in a batch that is padded on the left.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from onnx import GraphProto, ModelProto, ValueInfoProto, helper, numpy_helper

_TO_THE_END = np.iinfo(np.int64).max


def keep_window(model: ModelProto, into: str, out: str) -> int | None:
    """Cut an output to the length of an input (in place), if it is longer along one axis.

    Args:
        model: the model before its shapes are set.
        into, out: the names of the input and the output.

    Returns:
        the axis, or None where both have the same declared sizes, or differ in more than one.
    """
    graph = model.graph
    inputs, outputs = ({v.name: v for v in values} for values in (graph.input, graph.output))
    axis = _growing_axis(inputs[into], outputs[out])
    if axis is None:
        return None
    whole = f"{out}/whole"
    _rename(graph, out, whole)
    places = {f"{out}/axis": [axis], f"{out}/end": [_TO_THE_END]}
    for name, value in places.items():
        graph.initializer.append(numpy_helper.from_array(np.array(value, np.int64), name))
    size, begin = f"{out}/size", f"{out}/begin"
    graph.node.extend(
        [
            helper.make_node("Shape", [into], [f"{out}/shape"], name=f"{out}/shape"),
            helper.make_node("Gather", [f"{out}/shape", f"{out}/axis"], [size], name=size),
            helper.make_node("Neg", [size], [begin], name=begin),
            helper.make_node(
                "Slice", [whole, begin, f"{out}/end", f"{out}/axis"], [out], name=f"{out}/window"
            ),
        ]
    )
    return axis


def _growing_axis(into: ValueInfoProto, out: ValueInfoProto) -> int | None:
    """The one axis whose sizes differ; the last but one (the positions) where the output's are not declared."""
    before = into.type.tensor_type.shape.dim
    if not out.type.tensor_type.HasField("shape"):
        return len(before) - 2 if len(before) > 2 else None
    after = out.type.tensor_type.shape.dim
    if len(before) != len(after):
        return None
    pairs = [(_size(a), _size(b)) for a, b in zip(before, after, strict=True)]
    differing = [axis for axis, (a, b) in enumerate(pairs) if a != b or not a]
    return differing[0] if len(differing) == 1 else None


def _size(dim: object) -> str:
    value, name = getattr(dim, "dim_value", 0), getattr(dim, "dim_param", "")
    return str(value) if value else str(name)


def _rename(graph: GraphProto, old: str, new: str) -> None:
    """Rename a value of a graph wherever it is made or read, in sub-graphs, too; outputs keep the name."""
    for node in graph.node:
        for names in (node.input, node.output):
            for position, name in enumerate(names):
                if name == old:
                    names[position] = new
        for inner in _graphs(node.attribute):
            _rename(inner, old, new)
            for value in inner.output:
                value.name = new if value.name == old else value.name


def _graphs(attributes: Sequence[object]) -> list[GraphProto]:
    found: list[GraphProto] = []
    for attribute in attributes:
        found += [attribute.g] if attribute.HasField("g") else []  # type: ignore[attr-defined]
        found += attribute.graphs  # type: ignore[attr-defined]
    return found
