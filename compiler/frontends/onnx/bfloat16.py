"""bfloat16 as a storage format: its numbers are computed with in float32, as CPUs do.

ONNX Runtime supports casts of bfloat16 and little else, so it neither folds nor runs a bfloat16 model. With a cast
before and after each node it does both, and the results are the same: rounded after each node, and not within it.
"""

from __future__ import annotations

from onnx import AttributeProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

# Operators that may have bfloat16 outputs: they are where the type changes.
BORDERS = frozenset({"Cast", "Constant"})
# Attributes that name an element type.
TYPES = frozenset({"dtype", "output_dtype", "softmax_precision", "stash_type"})


def take_float32(model: ModelProto) -> None:
    """Make inputs and outputs of types that numpy lacks (bfloat16, floats of 8 bits and fewer) float32, in place.

    A cast is inserted after each such input and before each such output.
    """
    graph = model.graph
    kinds: dict[str, int] = {}
    for value in (*graph.input, *graph.output):
        kind = value.type.tensor_type.elem_type
        if kind and helper.tensor_dtype_to_np_dtype(kind).isbuiltin != 1:
            kinds[value.name] = kind
            value.type.tensor_type.elem_type = TensorProto.FLOAT
    if not kinds:
        return
    inside = {name: f"{name}.stored" for name in kinds}
    taken = [v.name for v in graph.input if v.name in kinds]
    given = [v.name for v in graph.output if v.name in kinds and v.name not in taken]
    nodes = [helper.make_node("Cast", [name], [inside[name]], to=kinds[name]) for name in taken]
    nodes += [_renamed(node, inside) for node in graph.node]
    nodes += [helper.make_node("Cast", [inside[name]], [name], to=TensorProto.FLOAT) for name in given]
    del graph.node[:]
    graph.node.extend(nodes)


def computed_in_float32(model: ModelProto) -> ModelProto | None:
    """The model with casts around each node that computes with bfloat16; None where there is no such node.

    Args:
        model: with inferred types; nodes with sub-graphs stay as they are.
    """
    copy = ModelProto()
    copy.CopyFrom(model)
    graph = copy.graph
    typed = (*graph.input, *graph.value_info, *graph.output)
    halves = {v.name for v in typed if v.type.tensor_type.elem_type == TensorProto.BFLOAT16}
    halves |= {tensor.name for tensor in graph.initializer if tensor.data_type == TensorProto.BFLOAT16}
    nodes: list[NodeProto] = []
    wide: dict[str, str] = {}
    suffix = "wide"
    while any(name.endswith(suffix) for node in graph.node for name in node.output):
        suffix += "r"
    for node in graph.node:
        given = [name for name in node.input if name in halves]
        made = [name for name in node.output if name in halves]
        inner = any(a.type in (AttributeProto.GRAPH, AttributeProto.GRAPHS) for a in node.attribute)
        if not (given or made) or node.op_type in BORDERS or inner:
            nodes.append(NodeProto.FromString(node.SerializeToString()))
            continue
        for name in dict.fromkeys(given):
            if name not in wide:
                wide[name] = f"{name}.{suffix}"
                nodes.append(helper.make_node("Cast", [name], [wide[name]], to=TensorProto.FLOAT))
        results = {name: f"{name}.exact_{suffix}" for name in made}
        nodes.append(_widened(node, {name: wide[name] for name in given} | results))
        nodes += [
            helper.make_node("Cast", [exact], [n], to=TensorProto.BFLOAT16) for n, exact in results.items()
        ]
    if len(nodes) == len(graph.node):
        return None
    del graph.node[:]
    graph.node.extend(nodes)
    return copy


def _widened(node: NodeProto, names: dict[str, str]) -> NodeProto:
    """The node with other names for its values, and float32 in its attributes."""
    made = _renamed(node, names)
    for attribute in made.attribute:
        if attribute.name in TYPES and attribute.i == TensorProto.BFLOAT16:
            attribute.i = TensorProto.FLOAT
        if attribute.type == AttributeProto.TENSOR and attribute.t.data_type == TensorProto.BFLOAT16:
            values = numpy_helper.to_array(attribute.t).astype("float32")
            attribute.t.CopyFrom(numpy_helper.from_array(values))
    return made


def _renamed(node: NodeProto, names: dict[str, str]) -> NodeProto:
    made = NodeProto.FromString(node.SerializeToString())
    for values in (made.input, made.output):
        values[:] = [names.get(name, name) for name in values]
    return made
