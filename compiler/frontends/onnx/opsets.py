"""Upgrade the file format and the operator sets to versions that later stages support."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import onnx
from onnx import AttributeProto, ModelProto, NodeProto

from edgec.compiler.frontends.onnx.ort_session import runs_in_onnxruntime
from edgec.compiler.frontends.onnx.validity import is_valid

OLDEST_OPSET = 13  # below it, axes and sizes are attributes, and operators have other meanings
LIFTED_OPSET = 18
NEWEST_OPSET = 26  # the newest operators that ONNX Runtime has
OLDEST_IR, NEWEST_IR = 8, 13  # file formats that ONNX Runtime reads, with initialisers separate from inputs
ATTRIBUTE_LISTS = {
    "floats": AttributeProto.FLOATS,
    "ints": AttributeProto.INTS,
    "strings": AttributeProto.STRINGS,
    "tensors": AttributeProto.TENSORS,
    "graphs": AttributeProto.GRAPHS,
}
ATTRIBUTE_VALUES = {
    "f": AttributeProto.FLOAT,
    "i": AttributeProto.INT,
    "s": AttributeProto.STRING,
    "t": AttributeProto.TENSOR,
    "g": AttributeProto.GRAPH,
}


def opset_of(model: ModelProto) -> int:
    """The version of the default operator set; 1 for files from before there were versions."""
    versions = [entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")]
    return versions[0] if versions else 1


def lift_format(model: ModelProto) -> None:
    """Upgrade the file format (not the operators), in place."""
    if not any(entry.domain in ("", "ai.onnx") for entry in model.opset_import):
        entry = model.opset_import.add()
        entry.domain, entry.version = "", 1 if model.ir_version < 3 else LIFTED_OPSET
    for entry in model.opset_import:
        if entry.domain == "ai.onnx":
            entry.domain = ""
    for node in model.graph.node:
        if node.domain == "ai.onnx":
            node.domain = ""
    type_attributes(model.graph.node)
    known = {entry.domain for entry in model.opset_import}
    for domain in sorted({node.domain for node in model.graph.node} - known):
        model.opset_import.add(domain=domain, version=1)
    model.ir_version = min(max(model.ir_version, OLDEST_IR), NEWEST_IR)


def type_attributes(nodes: Iterable[NodeProto]) -> None:
    """Set the types of attributes, in place: files of the first format leave them to be inferred from the value."""
    for attribute in (a for node in nodes for a in node.attribute):
        if attribute.type != AttributeProto.UNDEFINED or attribute.ref_attr_name:
            continue
        lists = [kind for field, kind in ATTRIBUTE_LISTS.items() if len(getattr(attribute, field))]
        values = [kind for field, kind in ATTRIBUTE_VALUES.items() if attribute.HasField(field)]
        attribute.type = (lists + values + [AttributeProto.UNDEFINED])[0]


def lift_opset(model: ModelProto) -> ModelProto:
    """The model in a recent opset, or unchanged if the version converter lacks one of its operators."""
    if opset_of(model) >= OLDEST_OPSET:
        return model
    from onnx import version_converter

    _state_old_limits(model)
    try:
        lifted = version_converter.convert_version(model, LIFTED_OPSET)
    except (version_converter.ConvertError, RuntimeError, ValueError, onnx.checker.ValidationError):
        return model
    _name_old_resizing(lifted)
    return lifted if _has_outputs_of(lifted, model) else model


def _state_old_limits(model: ModelProto) -> None:
    """Write out (in place) the limits of each Clip: before opset 11 those left out are the largest finite numbers.

    Infinities are limited by them; the version converter drops that.
    """
    if not 6 <= opset_of(model) < 11:
        return
    largest = float(np.finfo(np.float32).max)
    for node in model.graph.node:
        given = {attribute.name for attribute in node.attribute}
        if node.op_type == "Clip" and node.domain in ("", "ai.onnx"):
            missing = {"min": -largest, "max": largest}.items()
            node.attribute.extend(onnx.helper.make_attribute(k, v) for k, v in missing if k not in given)


def _name_old_resizing(lifted: ModelProto) -> None:
    """Set the attributes of each Resize to what it did before they existed; the version converter does not."""
    for node in lifted.graph.node:
        given = {attribute.name for attribute in node.attribute}
        if node.op_type == "Resize" and "coordinate_transformation_mode" not in given:
            node.attribute.append(onnx.helper.make_attribute("coordinate_transformation_mode", "asymmetric"))
            node.attribute.append(onnx.helper.make_attribute("nearest_mode", "floor"))


def _has_outputs_of(new: ModelProto, old: ModelProto) -> bool:
    return [v.name for v in new.graph.output] == [v.name for v in old.graph.output]


def lower_opset(model: ModelProto) -> ModelProto:
    """A model of an operator set newer than ONNX Runtime supports, in the newest that it supports.

    New sets mostly let operators accept more types: a model that does not use those means the same in the older
    set. The model itself is returned if ONNX Runtime rejects the result.
    """
    if opset_of(model) <= NEWEST_OPSET:
        return model
    lowered = ModelProto()
    lowered.CopyFrom(model)
    for entry in lowered.opset_import:
        if entry.domain in ("", "ai.onnx"):
            entry.version = NEWEST_OPSET
    return lowered if is_valid(lowered) and runs_in_onnxruntime(lowered.SerializeToString()) else model
