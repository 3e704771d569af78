"""Models of operator sets before 7, which declare broadcasting by attributes that no tool reads today.

Source: the standard's operators Add-1, Add-6 and Gemm-6, "limited broadcast".
"""

from __future__ import annotations

import onnx
from onnx import ModelProto, NodeProto, helper

from edgec.compiler.frontends.onnx.opsets import LIFTED_OPSET, opset_of
from edgec.compiler.frontends.onnx.shape_inference import infer_shapes

NUMPY_BROADCASTS_SINCE = 7


def broadcasts_by_attribute(model: ModelProto) -> bool:
    """Whether a node broadcasts as in the operator sets before 7."""
    old = opset_of(model) < NUMPY_BROADCASTS_SINCE
    return old and any(a.name == "broadcast" and a.i for n in model.graph.node for a in n.attribute)


def lifted(model: ModelProto) -> ModelProto:
    """A model of such an operator set in a recent one; the model itself if it cannot be converted.

    Args:
        model: with static inputs; it is not changed.
    """
    from onnx import version_converter

    try:
        # shapes, which the next steps need, are inferred from set 6 on
        typed = infer_shapes(version_converter.convert_version(model, NUMPY_BROADCASTS_SINCE - 1))
        return version_converter.convert_version(_as_numpy(typed), LIFTED_OPSET)
    except (version_converter.ConvertError, RuntimeError, ValueError, onnx.checker.ValidationError):
        return model


def _as_numpy(typed: ModelProto) -> ModelProto:
    """The model (changed in place) with numpy's broadcasting; its inferred shapes are kept."""
    graph = typed.graph
    ranks = {
        v.name: len(v.type.tensor_type.shape.dim) for v in (*graph.input, *graph.value_info, *graph.output)
    }
    ranks |= {tensor.name: len(tensor.dims) for tensor in graph.initializer}
    nodes = [new for node in graph.node for new in _broadcasting_as_numpy(node, ranks)]
    del graph.node[:]
    graph.node.extend(nodes)
    return typed


def _broadcasting_as_numpy(node: NodeProto, ranks: dict[str, int]) -> list[NodeProto]:
    """The node without these attributes, its second input with trailing axes appended to line up as declared."""
    given = {attribute.name: attribute.i for attribute in node.attribute}
    copy = NodeProto.FromString(node.SerializeToString())
    if "broadcast" not in given:
        return [copy]
    del copy.attribute[:]
    copy.attribute.extend(a for a in node.attribute if a.name not in ("broadcast", "axis"))
    if not given["broadcast"] or "axis" not in given or not all(name in ranks for name in node.input[:2]):
        return [copy]
    left, right = (ranks[name] for name in node.input[:2])
    behind = left - given["axis"] % left - right if left else 0
    if behind <= 0:
        return [copy]
    wide = f"{node.input[1]}_for_{node.output[0]}"
    copy.input[1] = wide
    axes = list(range(right, right + behind))
    return [helper.make_node("Unsqueeze", [node.input[1]], [wide], axes=axes), copy]
