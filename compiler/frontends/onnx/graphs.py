"""Walks over a graph and the graphs inside its nodes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from onnx import AttributeProto, GraphProto, NodeProto, TensorProto

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
        for attribute in node.attribute:
            if attribute.type == AttributeProto.GRAPH:
                yield from all_graphs(attribute.g, path, depth + 1)
            for inner in attribute.graphs:
                yield from all_graphs(inner, path, depth + 1)


def all_tensors(graph: GraphProto, path: Path) -> Iterator[TensorProto]:
    """Every tensor stored in the graph, its attributes and its sub-graphs."""
    for inner in all_graphs(graph, path):
        yield from inner.initializer
        for node in inner.node:
            for attribute in node.attribute:
                if attribute.type == AttributeProto.TENSOR:
                    yield attribute.t
                yield from attribute.tensors


def free_names(node: NodeProto) -> set[str]:
    """Names that a node reads: its inputs and whatever its sub-graphs take from outside."""
    names = {name for name in node.input if name}
    for attribute in node.attribute:
        for inner in (*attribute.graphs, *([attribute.g] if attribute.HasField("g") else [])):
            bound = {value.name for value in inner.input} | {tensor.name for tensor in inner.initializer}
            bound |= {name for child in inner.node for name in child.output}
            for child in inner.node:
                names |= free_names(child) - bound
            names |= {value.name for value in inner.output} - bound
    return names
