"""A topological order of the nodes."""

from __future__ import annotations

import heapq
from pathlib import Path

import onnx
from onnx import GraphProto, ModelProto

from edgec.compiler.errors import ModelError
from edgec.compiler.frontends.onnx.graphs import free_names


def with_sorted_nodes(model: ModelProto, path: Path) -> ModelProto:
    """The model with its nodes in topological order; unchanged if they already are.

    Raises:
        ModelError: a value without a producer, or with two, or a cycle.
    """
    graph = model.graph
    known = {value.name for value in graph.input} | {tensor.name for tensor in graph.initializer}
    known |= {tensor.values.name for tensor in graph.sparse_initializer}
    makers: dict[str, int] = {}
    for index, node in enumerate(graph.node):
        for name in node.output:
            if name and (name in makers or name in known):
                raise ModelError(f"{path}: the value {name!r} is computed more than once")
            if name:
                makers[name] = index
    reads = [free_names(node) for node in graph.node]
    for node, names in zip(graph.node, reads, strict=True):
        for name in names - known - makers.keys():
            raise ModelError(f"{path}: {node.op_type} {node.name!r} reads {name!r}, which no node computes")
    for value in graph.output:
        if value.name not in known and value.name not in makers:
            raise ModelError(f"{path}: no node computes the output {value.name!r}")
    order = _topological_order(reads, makers, path, graph)
    if order != list(range(len(order))):
        nodes = [graph.node[index] for index in order]
        copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
        del graph.node[:]
        graph.node.extend(copies)
    return model


def _topological_order(
    reads: list[set[str]], makers: dict[str, int], path: Path, graph: GraphProto
) -> list[int]:
    waiting = [len({makers[name] for name in names if name in makers}) for names in reads]
    readers: dict[int, list[int]] = {}
    for index, names in enumerate(reads):
        for maker in {makers[name] for name in names if name in makers}:
            readers.setdefault(maker, []).append(index)
    # the file's own order where possible, so that indices stay those that the user sees
    done, order = set[int](), list[int]()
    ready = [index for index, count in enumerate(waiting) if count == 0]
    heapq.heapify(ready)
    while ready:
        index = heapq.heappop(ready)
        order.append(index)
        done.add(index)
        for reader in readers.get(index, []):
            waiting[reader] -= 1
            if waiting[reader] == 0:
                heapq.heappush(ready, reader)
    if len(order) < len(reads):
        left = [(i, node) for i, node in enumerate(graph.node) if i not in done]
        stuck = [node.name or f"{node.op_type}#{i}" for i, node in left]
        raise ModelError(f"{path}: the graph has a cycle among {', '.join(stuck[:4])}")
    return order
