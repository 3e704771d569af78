"""Where ONNX Runtime is known to deviate from the standard, so that it is no reference for a model.

`docs/operators.md` lists the same for users.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from onnx import ModelProto, NodeProto, helper


def deviates(model: ModelProto) -> bool:
    """Whether a node of the model has attributes with which ONNX Runtime computes something else."""
    nodes = [node for node in model.graph.node if node.domain in ("", "ai.onnx")]
    return any(DEVIATIONS[node.op_type](node) for node in nodes if node.op_type in DEVIATIONS)


def _attributes(node: NodeProto) -> dict[str, Any]:
    return {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}


def _samples_beyond_borders(node: NodeProto) -> bool:
    """GridSample interpolates between copies of the border's pixels, where the standard takes the pixel."""
    attrs = _attributes(node)
    return attrs.get("mode") in (b"cubic", b"bicubic") and attrs.get("padding_mode") == b"border"


DEVIATIONS: dict[str, Callable[[NodeProto], bool]] = {
    "GridSample": _samples_beyond_borders,
}
