"""Make every output of a classical model a numeric tensor: no maps, no strings.

Exporters of scikit-learn and similar libraries end a classifier with ZipMap, which turns rows of probabilities into a
list of dictionaries, and may name classes by strings. Compiled models return the input of ZipMap instead, and the
class's position in the list of names, which becomes the artifact's labels.
"""

from __future__ import annotations

from onnx import AttributeProto, ModelProto, NodeProto, TensorProto, helper

CLASSIFIERS = ("TreeEnsembleClassifier", "LinearClassifier", "SVMClassifier")
ML = "ai.onnx.ml"


def to_tensors(model: ModelProto) -> tuple[str, ...]:
    """Rewrite the model's outputs (in place); returns the class names that its class numbers index, if any."""
    _drop_zip_maps(model)
    return _number_labels(model)


def _drop_zip_maps(model: ModelProto) -> None:
    outputs = {value.name: value for value in model.graph.output}
    for node in [n for n in model.graph.node if n.op_type == "ZipMap" and n.domain == ML]:
        value = outputs.get(node.output[0])
        if value is None:
            continue
        value.type.Clear()
        value.type.tensor_type.elem_type = TensorProto.FLOAT
        identity = helper.make_node("Identity", [node.input[0]], [node.output[0]], name=node.name)
        node.CopyFrom(identity)


def _number_labels(model: ModelProto) -> tuple[str, ...]:
    readers: dict[str, int] = {}
    for node in model.graph.node:
        for name in node.input:
            readers[name] = readers.get(name, 0) + 1
    outputs = {value.name: value for value in model.graph.output}
    found: tuple[str, ...] = ()
    for node in model.graph.node:
        name = _text_attribute(node)
        if not name:
            continue
        output = _final(model, node.output[0], readers)
        if output not in outputs:
            continue
        attribute = next(a for a in node.attribute if a.name == name)
        texts = [text.decode("utf-8", "replace") for text in attribute.strings]
        order = list(dict.fromkeys(texts))
        node.attribute.remove(attribute)
        numbers = "classlabels_ints" if node.op_type != "LabelEncoder" else "values_int64s"
        if node.op_type == "TreeEnsembleClassifier":
            numbers = "classlabels_int64s"
        node.attribute.append(helper.make_attribute(numbers, [order.index(text) for text in texts]))
        for old in [a for a in node.attribute if a.name == "default_string"]:
            node.attribute.remove(old)
        outputs[output].type.tensor_type.elem_type = TensorProto.INT64
        found = tuple(order)
    return found


def _final(model: ModelProto, name: str, readers: dict[str, int]) -> str:
    """The output that a label becomes if at most a cast follows; the cast is removed."""
    if readers.get(name, 0) != 1:
        return "" if readers.get(name) else name
    reader = next(node for node in model.graph.node if name in node.input)
    if reader.op_type not in ("Cast", "Identity"):
        return ""
    output = str(reader.output[0])
    reader.CopyFrom(helper.make_node("Identity", [name], [output], name=reader.name))
    return output


def _text_attribute(node: NodeProto) -> str:
    if node.domain != ML:
        return ""
    wanted = "classlabels_strings" if node.op_type in CLASSIFIERS else ""
    wanted = "values_strings" if node.op_type == "LabelEncoder" else wanted
    given = {a.name for a in node.attribute if a.type == AttributeProto.STRINGS and a.strings}
    return wanted if wanted in given else ""
