"""Operators whose inputs are all known at compile time: shapes and what is computed from them, rearranged weights."""

from __future__ import annotations

import numpy as np
from onnx import ValueInfoProto, helper, numpy_helper

from edgec.compiler.errors import ModelError
from edgec.compiler.frontends.onnx.reference_evaluator import Standard
from edgec.compiler.frontends.tflite.flat import Graph, Operator
from edgec.compiler.frontends.tflite.graph import Writer, is_quantised

MOST_ELEMENTS = 1 << 22
OPSET = 21
# The sizes of what they return depend on the values that they read.
BY_VALUE = frozenset({"WHERE", "UNIQUE", "RANGE", "WHILE", "SPARSE_TO_DENSE"})


def unsettled(graph: Graph) -> set[int]:
    """The tensors whose sizes may depend on the values that a model is given."""
    found = set[int]()
    for op in graph.operators:
        if op.kind in BY_VALUE or found.intersection(op.inputs):
            found.update(op.outputs)
    return found


def fold(g: Writer, op: Operator, first: int) -> None:
    """Replace the nodes that an operator was converted to by their values, if its inputs are constants.

    Args:
        first: the position of the operator's first node.
    """
    nodes = g.nodes[first:]
    inputs = [g.tensor(index) for index in op.inputs if index >= 0]
    outputs = [g.graph.tensors[index] for index in op.outputs]
    if not nodes or not inputs or any(t.data is None for t in inputs):
        return
    if any(is_quantised(t) for t in (*inputs, *outputs)) or not all(t.index in g.native for t in outputs):
        return
    if sum(t.data.size for t in inputs if t.data is not None) > MOST_ELEMENTS:
        return
    stored = {name: g.stored_constant(name) for node in nodes for name in node.input if g.has_constant(name)}
    if sum(value.size for value in stored.values()) > MOST_ELEMENTS:
        return
    names = [g.native[t.index] for t in outputs]
    graph = helper.make_graph(
        nodes,
        "constants",
        [],
        [ValueInfoProto(name=name) for name in names],
        [numpy_helper.from_array(value, name) for name, value in stored.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=10)
    try:
        values = Standard(model).run({}).values()
    except ModelError:  # left to the compiled model, which names what is wrong
        return
    del g.nodes[first:]
    for tensor, value in zip(outputs, values, strict=True):
        del g.native[tensor.index]
        g.put_constant(tensor.index, np.asarray(value))
