"""What a model requires of the values of its inputs, found by following each input to its uses.

The graph is walked from the outputs to the inputs: an operator states what it requires of its operands
(`edgec.compiler.verify.uses`), and operators that only move values pass on what their readers require
(`edgec.compiler.verify.passing`).
"""

from __future__ import annotations

from collections.abc import Iterable

from onnx import ModelProto, NodeProto

from edgec.compiler.verify.demands import Demand, Graph
from edgec.compiler.verify.passing import passed_on
from edgec.compiler.verify.uses import USES


def demands_of(model: ModelProto) -> dict[str, Demand]:
    """What a model requires of its inputs, by name; an input without requirements is absent.

    Args:
        model: with the shapes of its values, as far as they are known.
    """
    graph, found = Graph(model), dict[str, Demand]()

    def add(name: str, demand: Demand | None) -> None:
        if name and demand is not None:
            found[name] = found[name] & demand if name in found else demand

    for node in reversed(graph.nodes):
        for position, demand in USES.get(node.op_type, _nothing)(node, graph):
            if position < len(node.input):
                add(node.input[position], demand)
        for number, name in enumerate(node.output):
            if name in found:
                for source, demand in passed_on(node, number, found[name], graph):
                    add(source, demand)
    inputs = {value.name for value in model.graph.input}
    return {name: demand for name, demand in found.items() if name in inputs}


def _nothing(node: NodeProto, graph: Graph) -> Iterable[tuple[int, Demand | None]]:
    return ()
