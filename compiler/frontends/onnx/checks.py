"""Checks of a file that may be damaged or hostile, before any other library sees the model."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import onnx
from onnx import AttributeProto, ModelProto, NodeProto, TensorProto, TypeProto, helper

from edgec.compiler.errors import ModelError
from edgec.compiler.frontends.onnx.graphs import MAX_SUBGRAPH_DEPTH, graphs_of, nodes_of

ELEMENT_TYPES = frozenset(TensorProto.DataType.values()) - {TensorProto.UNDEFINED}
# Attributes of the standard's operators that hold the number of an element type.
TYPE_ATTRIBUTES = frozenset(
    {"to", "dtype", "output_dtype", "output_datatype", "softmax_precision", "stash_type"}
)
MAX_NODES = 1_000_000  # after inlining functions; the largest real models have some 10,000
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

_PACKED = {"INT2": 2, "UINT2": 2, "INT4": 4, "UINT4": 4, "FLOAT4E2M1": 4}  # bits; all others take whole bytes


def check_names(model: ModelProto, path: Path) -> None:
    """Check that all names are text: protobuf returns those that are not as bytes.

    Raises:
        ModelError: one is not.
    """
    names: list[object] = [entry.domain for entry in model.opset_import]
    for node in nodes_of(model, path):
        names += [node.op_type, node.name, node.domain, *node.input, *node.output]
        names += [attribute.name for attribute in node.attribute]
    for graph in graphs_of(model, path):
        names += [tensor.name for tensor in graph.initializer]
        for value in (*graph.input, *graph.output, *graph.value_info):
            names += [value.name, *(dim.dim_param for dim in value.type.tensor_type.shape.dim)]
    if any(isinstance(name, bytes) for name in names):
        raise ModelError(f"{path}: a name in it is not text; the file is damaged")


def check_versions(model: ModelProto, path: Path) -> None:
    """Check that the file format and the standard's operator sets are not newer than those of the `onnx` package.

    What newer ones mean is unknown: an operator may have changed under its name.

    Raises:
        ModelError: one is newer.
    """
    newest = {"": onnx.defs.onnx_opset_version(), "ai.onnx.ml": onnx.defs.onnx_ml_opset_version()}
    if model.ir_version > onnx.IR_VERSION:
        raise ModelError(
            f"{path}: is of ONNX's file format {model.ir_version}, and this edgec knows formats up to "
            f"{onnx.IR_VERSION}: export the model with an older format (ir_version), or update edgec"
        )
    opsets = [
        *model.opset_import,
        *(entry for function in model.functions for entry in function.opset_import),
    ]
    for entry in opsets:
        domain = "" if entry.domain == "ai.onnx" else entry.domain
        if entry.version > newest.get(domain, entry.version):
            raise ModelError(
                f"{path}: uses version {entry.version} of the operator set {domain or 'ai.onnx'}, and this edgec knows "
                f"versions up to {newest[domain]}: export the model with an older one (opset), or update edgec"
            )


def check_types(model: ModelProto, path: Path) -> None:
    """Check that every element type in the model is one that the standard knows, and every attribute has a type.

    Stored tensors are checked by `check_tensor`.

    Raises:
        ModelError: an unknown number of an element type, or an attribute without a value.
    """
    for graph in graphs_of(model, path):
        for value in (*graph.input, *graph.output, *graph.value_info):
            _check_value_type(value.type, f"{path}: the value {value.name!r}")
    for function in model.functions:
        for value in function.value_info:
            _check_value_type(value.type, f"{path}: the value {value.name!r}")
    for node in nodes_of(model, path):
        for attribute in node.attribute:
            owner = f"{path}: the attribute {attribute.name!r} of {node.op_type} {node.name!r}"
            _check_attribute(attribute, node, owner)


def _check_value_type(kind: TypeProto, owner: str) -> None:
    """Check a value's type; nested ones (sequences, optionals, maps) inside out."""
    which = kind.WhichOneof("value")
    if which in ("tensor_type", "sparse_tensor_type"):
        _check_element_type(getattr(kind, which).elem_type, owner, known=False)
    elif which in ("sequence_type", "optional_type"):
        _check_value_type(getattr(kind, which).elem_type, owner)
    elif which == "map_type":
        _check_element_type(kind.map_type.key_type, owner, known=False)
        _check_value_type(kind.map_type.value_type, owner)


def _check_attribute(attribute: AttributeProto, node: NodeProto, owner: str) -> None:
    for kind in (*attribute.type_protos, *([attribute.tp] if attribute.HasField("tp") else [])):
        _check_value_type(kind, owner)
    if attribute.ref_attr_name:  # of a function, whose call has the value
        return
    if attribute.type == AttributeProto.UNDEFINED:
        raise ModelError(f"{owner} has no known type and no value; the file is damaged")
    if attribute.name in TYPE_ATTRIBUTES and node.domain in ("", "ai.onnx"):
        _check_element_type(attribute.i, owner, known=attribute.name == "to")


def _check_element_type(number: int, owner: str, *, known: bool) -> None:
    """Check the number of an element type; 0 (not told) passes unless it has to be `known`."""
    if number not in ELEMENT_TYPES and (known or number != TensorProto.UNDEFINED):
        raise ModelError(f"{owner} has the unknown element type {number}; the file is damaged, or too new")


def check_tensor(tensor: TensorProto, path: Path) -> None:
    """Check that a stored tensor has the amount of data that its shape and type require.

    Raises:
        ModelError: a negative dimension, an unknown type, or another amount of data.
    """
    name = tensor.name or "(constant)"
    if tensor.HasField("segment"):
        raise ModelError(
            f"{path}: the tensor {name!r} is stored in segments, which nothing reads; export it again"
        )
    if any(dim < 0 for dim in tensor.dims):
        raise ModelError(f"{path}: the tensor {name!r} has a negative dimension: {list(tensor.dims)}")
    _check_element_type(tensor.data_type, f"{path}: the tensor {name!r}", known=True)
    elements = math.prod(tensor.dims)
    if tensor.data_type == TensorProto.STRING:
        have, want = len(tensor.string_data), elements
    elif tensor.HasField("raw_data") and tensor.data_type in _BITS:
        have, want = len(tensor.raw_data) * 8, elements * _BITS[tensor.data_type]
    elif tensor.data_type in _BITS and not tensor.HasField("raw_data"):
        have = len(getattr(tensor, helper.tensor_dtype_to_field(tensor.data_type)))
        parts = 2 if tensor.data_type in (TensorProto.COMPLEX64, TensorProto.COMPLEX128) else 1
        want = elements * parts
    else:
        # types of at most 8 bits, in bytes or in integers of a byte each; those of 6 bits are packed in bytes only
        kind, raw = TensorProto.DataType.Name(tensor.data_type), tensor.HasField("raw_data")
        have = len(tensor.raw_data) if raw else len(tensor.int32_data)
        want = -(-elements * (6 if raw and kind.startswith("FLOAT6") else _PACKED.get(kind, 8)) // 8)
    if have != want:
        raise ModelError(
            f"{path}: the tensor {name!r} of shape {list(tensor.dims)} does not hold the data for it; "
            "the file is damaged"
        )


def check_functions(model: ModelProto, path: Path) -> None:
    """Check that the model's functions neither call themselves nor grow without bound when inlined.

    Raises:
        ModelError: a recursive function, or one that unfolds to more than `MAX_NODES` nodes.
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
