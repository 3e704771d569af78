"""Expand operators without a converter into simpler ones, by the standard's definitions or those of `microsoft`."""

from __future__ import annotations

from collections.abc import Callable

import onnx
from onnx import FunctionProto, ModelProto, NodeProto, TypeProto, inliner

from edgec.compiler.frontends.onnx import group_query, microsoft

DOMAIN = "edgec.expanded"
MICROSOFT = "com.microsoft"
MOST_ROUNDS = 8  # of expansion: in a damaged model, a definition may come back to its own operator


def expand(model: ModelProto, has_converter: Callable[[NodeProto], bool]) -> ModelProto | None:
    """The model with its nodes that have no converter replaced by their definition in the standard.

    Args:
        model: with inferred shapes; some definitions depend on the types of the inputs.
        has_converter: whether a node can be converted as it is.

    Returns:
        the new model, or None where there is nothing to replace.
    """
    group_query.load()
    copy = ModelProto()
    copy.CopyFrom(model)
    graph = copy.graph
    types = {value.name: value.type for value in (*graph.input, *graph.value_info, *graph.output)}
    for tensor in graph.initializer:
        types[tensor.name] = onnx.helper.make_tensor_type_proto(tensor.data_type, list(tensor.dims))
    versions = {entry.domain: entry.version for entry in copy.opset_import}
    for number, node in enumerate(graph.node):
        if has_converter(node):
            continue
        if node.domain == MICROSOFT:
            definition = microsoft.definition(node, versions.get("", 1), types)
        else:
            definition = _definition(node, versions.get(node.domain, 1), types)
        if definition is None:
            continue
        definition.name, definition.domain = f"{node.op_type}_{number}", DOMAIN
        if not definition.opset_import:
            definition.opset_import.add(domain="", version=versions.get("", 1))
        copy.functions.append(definition)
        node.op_type, node.domain = definition.name, DOMAIN
    if not copy.functions:
        return None
    copy.opset_import.add(domain=DOMAIN, version=1)
    return inliner.inline_local_functions(copy)


def needs_lengths(model: ModelProto) -> bool:
    """Whether lengths of sequences among the inputs have to fit others, so that the model runs on no made-up inputs."""
    return any(
        node.domain == MICROSOFT and node.op_type == "GroupQueryAttention" for node in model.graph.node
    )


def _definition(node: NodeProto, version: int, types: dict[str, TypeProto]) -> FunctionProto | None:
    try:
        schema = onnx.defs.get_schema(node.op_type, version, node.domain)
    except (onnx.defs.SchemaError, TypeError):  # unknown, or of a version that is no 32-bit integer
        return None
    made = FunctionProto()
    if schema.has_context_dependent_function:
        given = [types.get(name, TypeProto()).SerializeToString() for name in node.input]
        made.ParseFromString(schema.get_context_dependent_function(node.SerializeToString(), given))
    elif schema.has_function:
        made.CopyFrom(schema.function_body)
    return made if made.node else None
