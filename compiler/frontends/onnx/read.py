"""Read an ONNX file that may be damaged or hostile: everything is checked before anything is believed.

Protobuf says little about a model's sanity. Before any other library sees the model, this module has
checked that tensors hold as many bytes as their shapes say, that external data stay in the model's folder,
that functions do not call themselves, and that the graph has an order of execution.
"""

from __future__ import annotations

import hashlib
import heapq
import math
from collections.abc import Iterator
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto

from edgec.compiler.errors import ModelError

MAX_NODES = 1_000_000  # after inlining functions; the largest real models have some 10,000
MAX_SUBGRAPH_DEPTH = 16  # real models have 3; the parser itself stops at some 30

_BITS = {
    TensorProto.FLOAT: 32,
    TensorProto.UINT8: 8,
    TensorProto.INT8: 8,
    TensorProto.UINT16: 16,
    TensorProto.INT16: 16,
    TensorProto.INT32: 32,
    TensorProto.INT64: 64,
    TensorProto.BOOL: 8,
    TensorProto.FLOAT16: 16,
    TensorProto.DOUBLE: 64,
    TensorProto.UINT32: 32,
    TensorProto.UINT64: 64,
    TensorProto.COMPLEX64: 64,
    TensorProto.COMPLEX128: 128,
    TensorProto.BFLOAT16: 16,
}


def read_model(path: Path) -> tuple[ModelProto, str]:
    """Read and check an ONNX file with its external data.

    Returns:
        the model, functions inlined and nodes in an order in which they can run, and ``sha256:…`` of the file
        (and of its external data, where it has some).

    Raises:
        ModelError: unreadable, truncated, not ONNX, inconsistent, or written to do harm.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ModelError(f"{path}: cannot be read: {error.strerror}") from error
    digest = hashlib.sha256(content)
    try:
        model = onnx.load_model_from_string(content)
    except DecodeError as error:
        raise ModelError(
            f"{path}: not an ONNX model, or cut short ({len(content)} bytes); export or download it again"
        ) from error
    if not model.HasField("graph") or not model.graph.output:
        raise ModelError(f"{path}: holds no graph with outputs, so it is not an ONNX model or is cut short")
    check_names(model, path)
    check_functions(model, path)
    for tensor in all_tensors(model.graph, path):
        if tensor.data_location == TensorProto.EXTERNAL:
            digest.update(_load_external(tensor, path))
        check_tensor(tensor, path)
    if model.functions:
        model = _inline(model, path)
    model = with_sorted_nodes(model, path)
    return model, f"sha256:{digest.hexdigest()}"


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


def check_names(model: ModelProto, path: Path) -> None:
    """Check that all names are text: protobuf hands those that are not over as bytes.

    Raises:
        ModelError: one is not.
    """
    graphs = list(all_graphs(model.graph, path))
    nodes = [node for graph in graphs for node in graph.node]
    nodes += [node for function in model.functions for node in function.node]
    names: list[object] = [entry.domain for entry in model.opset_import]
    for node in nodes:
        names += [node.op_type, node.name, node.domain, *node.input, *node.output]
        names += [attribute.name for attribute in node.attribute]
    for graph in graphs:
        names += [value.name for value in (*graph.input, *graph.output, *graph.value_info)]
        names += [tensor.name for tensor in graph.initializer]
        for value in (*graph.input, *graph.output, *graph.value_info):
            names += [dim.dim_param for dim in value.type.tensor_type.shape.dim]
    if any(isinstance(name, bytes) for name in names):
        raise ModelError(f"{path}: a name in it is no text; the file is damaged")


def check_tensor(tensor: TensorProto, path: Path) -> None:
    """Check that a stored tensor has the amount of data that its shape and type call for.

    Raises:
        ModelError: a negative dimension, an unknown type, or another amount of data.
    """
    name = tensor.name or "(constant)"
    if any(dim < 0 for dim in tensor.dims):
        raise ModelError(f"{path}: tensor {name!r} has a negative dimension: {list(tensor.dims)}")
    if tensor.data_type == TensorProto.UNDEFINED or tensor.data_type not in TensorProto.DataType.values():
        raise ModelError(f"{path}: tensor {name!r} has the unknown element type {tensor.data_type}")
    elements = math.prod(tensor.dims)
    if tensor.data_type == TensorProto.STRING:
        have, want = len(tensor.string_data), elements
    elif tensor.HasField("raw_data") and tensor.data_type in _BITS:
        have, want = len(tensor.raw_data) * 8, elements * _BITS[tensor.data_type]
    elif tensor.data_type in _BITS and not tensor.HasField("raw_data"):
        have = (
            len(tensor.float_data)
            + len(tensor.int32_data)
            + len(tensor.int64_data)
            + len(tensor.double_data)
            + len(tensor.uint64_data)
        )
        parts = 2 if tensor.data_type in (TensorProto.COMPLEX64, TensorProto.COMPLEX128) else 1
        want = elements * parts
    else:
        # types of less than 8 bits are packed: the number of bytes bounds the number of elements
        have = want = 0
        if elements > 8 * max(len(tensor.raw_data), len(tensor.int32_data) * 8):
            have = -1
    if have != want:
        raise ModelError(
            f"{path}: tensor {name!r} of shape {list(tensor.dims)} does not hold the data for it; "
            "the file is damaged"
        )


def _load_external(tensor: TensorProto, path: Path) -> bytes:
    """Read a tensor's data from its file into the tensor and return them."""
    info = {entry.key: entry.value for entry in tensor.external_data}
    location = info.get("location", "")
    folder = path.resolve().parent
    file = (folder / location).resolve()
    if not location or Path(location).is_absolute() or not file.is_relative_to(folder):
        raise ModelError(
            f"{path}: tensor {tensor.name!r} asks for data outside of the model's folder: {location!r}"
        )
    if not file.is_file():
        raise ModelError(
            f"{path}: the external data file {location!r} of tensor {tensor.name!r} is missing; "
            f"put it beside the model, in {folder}"
        )
    try:
        offset, size = int(info.get("offset", "0")), file.stat().st_size
        length = int(info["length"]) if "length" in info else size - offset
    except ValueError as error:
        raise ModelError(f"{path}: tensor {tensor.name!r} has external data at no valid place") from error
    if offset < 0 or length < 0 or offset + length > size:
        raise ModelError(
            f"{path}: tensor {tensor.name!r} wants bytes {offset} to {offset + length} of {location!r}, "
            f"which has {size}; the data file is cut short or of another model"
        )
    with file.open("rb") as stream:
        stream.seek(offset)
        data: bytes = stream.read(length)
    tensor.raw_data = data
    tensor.ClearField("external_data")
    tensor.data_location = TensorProto.DEFAULT
    return data


def check_functions(model: ModelProto, path: Path) -> None:
    """Check that the model's functions neither call themselves nor grow without bound when inlined.

    Raises:
        ModelError: a recursive function, or one that unfolds to more than ``MAX_NODES`` nodes.
    """
    functions = {(f.domain, f.name): f for f in model.functions}
    sizes: dict[tuple[str, str], int] = {}
    open_calls: list[tuple[str, str]] = []

    def size_of(key: tuple[str, str]) -> int:
        if key in open_calls:
            raise ModelError(f"{path}: the function {key[1]!r} calls itself")
        if len(open_calls) > 200:
            raise ModelError(f"{path}: functions call each other more than 200 deep")
        if key not in sizes:
            open_calls.append(key)
            sizes[key] = count(functions[key].node)
            open_calls.pop()
        return sizes[key]

    def count(nodes: Iterator[NodeProto] | list[NodeProto], depth: int = 0) -> int:
        if depth > MAX_SUBGRAPH_DEPTH:
            raise ModelError(f"{path}: sub-graphs are nested more than {MAX_SUBGRAPH_DEPTH} deep")
        total = 0
        for node in nodes:
            key = (node.domain, node.op_type)
            total += size_of(key) if key in functions else 1
            for attribute in node.attribute:
                for inner in (*attribute.graphs, *([attribute.g] if attribute.HasField("g") else [])):
                    total += count(inner.node, depth + 1)
        return total

    if count(model.graph.node) > MAX_NODES:
        raise ModelError(f"{path}: more than {MAX_NODES} nodes once its functions are inlined")


def _inline(model: ModelProto, path: Path) -> ModelProto:
    try:
        from onnx import inliner

        return inliner.inline_local_functions(model)
    except RuntimeError as error:
        raise ModelError(f"{path}: its functions cannot be inlined: {_first_line(error)}") from error


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__


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


def with_sorted_nodes(model: ModelProto, path: Path) -> ModelProto:
    """The model with its nodes in an order in which they can run; unchanged when they already are.

    Raises:
        ModelError: a value that nobody makes, one made twice, or nodes that wait for each other.
    """
    graph = model.graph
    known = {value.name for value in graph.input} | {tensor.name for tensor in graph.initializer}
    known |= {tensor.values.name for tensor in graph.sparse_initializer}
    makers: dict[str, int] = {}
    for index, node in enumerate(graph.node):
        for name in node.output:
            if name and (name in makers or name in known):
                raise ModelError(f"{path}: the value {name!r} is made more than once")
            if name:
                makers[name] = index
    reads = [free_names(node) for node in graph.node]
    for node, names in zip(graph.node, reads, strict=True):
        for name in names - known - makers.keys():
            raise ModelError(f"{path}: {node.op_type} {node.name!r} reads {name!r}, which nothing makes")
    for value in graph.output:
        if value.name not in known and value.name not in makers:
            raise ModelError(f"{path}: nothing makes the output {value.name!r}")
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
    # the file's own order where that works, so that indices stay what the user sees
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
