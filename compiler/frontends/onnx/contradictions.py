"""What in a model contradicts the standard's own types and shapes of its operators, node by name."""

from __future__ import annotations

import re

import onnx
from onnx import ModelProto

ENTRY = re.compile(r"\(op_type: ?(?P<operator>[^,)]*)(?:, node name: (?P<name>.*?))?\): (?P<why>.*)")
KIND = re.compile(r"^\[\w*Error\] ?")


def contradiction(model: ModelProto) -> str | None:
    """The first contradiction that the standard's inference finds; None without one.

    Args:
        model: with the shapes of its inputs.
    """
    stamped = ModelProto()
    stamped.CopyFrom(model)
    stamped.ir_version = onnx.IR_VERSION  # the newest operator sets require the newest format
    try:
        onnx.shape_inference.infer_shapes(stamped, check_type=True, strict_mode=True, data_prop=False)
    except (onnx.shape_inference.InferenceError, RuntimeError, ValueError) as error:
        return _told(str(error), model)
    return None


def _told(message: str, model: ModelProto) -> str:
    """The first entry of an error message: its node and the reason."""
    found = ENTRY.search(message)
    if found is None:
        return KIND.sub("", message.strip().splitlines()[0])[:300]
    operator, name, why = found["operator"], found["name"] or "", found["why"]
    while KIND.match(why):
        why = KIND.sub("", why)
    if not name:
        named = [node for node in model.graph.node if node.op_type == operator]
        name = named[0].output[0] if len(named) == 1 and named[0].output else ""
    return f"{operator} {name!r}: {why.strip()[:250]}" if name else f"{operator}: {why.strip()[:250]}"
