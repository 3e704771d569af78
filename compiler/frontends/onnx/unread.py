"""Drop what a model states but nobody reads: nodes without a use, and empty optional inputs of Resize."""

from __future__ import annotations

from pathlib import Path

from onnx import GraphProto, ModelProto, NodeProto

from edgec.compiler.frontends.onnx.graphs import free_names, graphs_of
from edgec.compiler.frontends.onnx.opsets import OLDEST_OPSET, opset_of


def drop_unread_nodes(graph: GraphProto) -> None:
    """Drop (in place) the nodes, also those of sub-graphs, that contribute to no output.

    Exporters leave them behind. They would cost time, or refuse the model where one of them cannot be compiled.
    """
    for node in graph.node:
        for attribute in node.attribute:
            for inner in (*attribute.graphs, *([attribute.g] if attribute.HasField("g") else [])):
                drop_unread_nodes(inner)
    makers = {name: index for index, node in enumerate(graph.node) for name in node.output if name}
    kept, waiting = set[int](), [makers[value.name] for value in graph.output if value.name in makers]
    while waiting:
        index = waiting.pop()
        if index in kept:
            continue
        kept.add(index)
        waiting += [makers[name] for name in free_names(graph.node[index]) if name in makers]
    for index in reversed(range(len(graph.node))):
        if index not in kept:
            del graph.node[index]


def leave_out_empty_resizing(model: ModelProto, path: Path) -> None:
    """Leave out (in place) the inputs of each Resize that are empty tensors, which mean the same.

    tf2onnx writes one empty tensor for region and scales beside the sizes; TVM's converter takes it for scales.
    """
    if opset_of(model) < OLDEST_OPSET:
        return  # there the empty tensor is required
    empty: set[str] = set()
    resizing: list[NodeProto] = []
    for graph in graphs_of(model, path):
        empty |= {tensor.name for tensor in graph.initializer if 0 in tensor.dims}
        resizing += [node for node in graph.node if node.op_type == "Resize" and not node.domain]
    for node in resizing:
        for position in range(1, len(node.input)):
            if node.input[position] in empty:
                node.input[position] = ""
