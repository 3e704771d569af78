"""Validity of a model by the standard."""

from __future__ import annotations

import onnx
from onnx import ModelProto


def is_valid(model: ModelProto) -> bool:
    """Whether a model conforms to the standard, whether or not any runtime supports it."""
    stamped = ModelProto()
    stamped.CopyFrom(model)
    stamped.ir_version = onnx.IR_VERSION  # the newest operator sets require the newest format
    for value in stamped.graph.output:
        if value.type.HasField("tensor_type"):  # the checker requires a shape, though it is not known yet
            value.type.tensor_type.shape.SetInParent()
    try:
        onnx.checker.check_model(stamped)
    except (onnx.checker.ValidationError, ValueError):
        return False
    return True


def knows_operators(model: ModelProto) -> bool:
    """Whether the standard, or ONNX Runtime, defines all operators of the main graph."""
    return all(
        node.domain == "com.microsoft" or onnx.defs.has(node.op_type, domain=node.domain)
        for node in model.graph.node
    )
