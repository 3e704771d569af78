"""Trace a cleaned model's values back to the nodes of the source."""

from __future__ import annotations

from collections.abc import Mapping

from onnx import ModelProto


def trace_origins(model: ModelProto, sources: Mapping[str, int], names: Mapping[str, int]) -> dict[str, int]:
    """Map each value of the cleaned `model` to the source node that it came from.

    Args:
        sources: name of a value to the index of the source node that makes it.
        names: name of a node to its index in the source.

    Returns:
        indices of source nodes by the names of values. A value introduced by cleaning belongs to the node of its
        reader, else to that of its own inputs.
    """
    origins: dict[str, int] = {}
    for node in model.graph.node:
        known = [sources[name] for name in node.output if name in sources]
        known = known or ([names[node.name]] if node.name in names else [])
        for name in node.output:
            if known:
                origins[name] = known[-1]
    for node in reversed(model.graph.node):
        own = next((origins[name] for name in node.output if name in origins), None)
        for name in node.input:
            if own is not None and name not in origins and name not in sources:
                origins[name] = own
    for node in model.graph.node:
        before = next((origins[name] for name in node.input if name in origins), 0)
        for name in node.output:
            origins.setdefault(name, before)
    return origins
