"""Walks over a graph and the graphs inside its nodes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from onnx import GraphProto, ModelProto, NodeProto, SparseTensorProto, TensorProto

from edgec.compiler.errors import ModelError

MAX_SUBGRAPH_DEPTH = 16  # real models have 3; the parser itself stops at some 30


def all_graphs(graph: GraphProto, path: Path, depth: int = 0) -> Iterator[GraphProto]:
    """The graph and the graphs in its nodes' attributes, outer ones first.

    Raises:
        ModelError: nested deeper than any real model.
    """
    if depth > MAX_SUBGRAPH_DEPTH:
        raise ModelError(f"{path}: sub-graphs are nested more than {MAX_SUBGRAPH_DEPTH} deep")
    yield graph
    for node in graph.node:
        yield from _inner_graphs(node, path, depth)


def _inner_graphs(node: NodeProto, path: Path, depth: int) -> Iterator[GraphProto]:
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield from all_graphs(attribute.g, path, depth + 1)
        for inner in attribute.graphs:
            yield from all_graphs(inner, path, depth + 1)


def graphs_of(model: ModelProto, path: Path) -> Iterator[GraphProto]:
    """The main graph, and all graphs inside its nodes and the nodes of the model's functions."""
    yield from all_graphs(model.graph, path)
    for function in model.functions:
        for node in function.node:
            yield from _inner_graphs(node, path, 0)


def nodes_of(model: ModelProto, path: Path) -> Iterator[NodeProto]:
    """Every node of the model: of its graphs and its functions."""
    for graph in graphs_of(model, path):
        yield from graph.node
    for function in model.functions:
        yield from function.node


def tensors_of(model: ModelProto, path: Path) -> Iterator[TensorProto]:
    """Every tensor stored in the model: initialisers and attributes."""
    sparse: list[SparseTensorProto] = []
    for graph in graphs_of(model, path):
        yield from graph.initializer
        sparse += graph.sparse_initializer
    for node in nodes_of(model, path):
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors
            sparse += [attribute.sparse_tensor] if attribute.HasField("sparse_tensor") else []
            sparse += attribute.sparse_tensors
    for tensor in sparse:
        yield tensor.values
        yield tensor.indices


def free_names(node: NodeProto) -> set[str]:
    """Names that a node reads: its inputs and the outer values that its sub-graphs read."""
    names = {name for name in node.input if name}
    for attribute in node.attribute:
        for inner in (*attribute.graphs, *([attribute.g] if attribute.HasField("g") else [])):
            bound = {value.name for value in inner.input} | {tensor.name for tensor in inner.initializer}
            bound |= {name for child in inner.node for name in child.output}
            for child in inner.node:
                names |= free_names(child) - bound
            names |= {value.name for value in inner.output} - bound
    return names


def types_inside(model: ModelProto, path: Path) -> dict[str, int]:
    """The numbers of the element types of values in sub-graphs; of those of one name, where they agree."""
    found: dict[str, set[int]] = {}
    for graph in all_graphs(model.graph, path):
        if graph is not model.graph:
            for value in (*graph.value_info, *graph.output):
                found.setdefault(value.name, set()).add(int(value.type.tensor_type.elem_type))
    return {name: kinds.pop() for name, kinds in found.items() if len(kinds) == 1}
