"""Classical models return tensors of numbers: no dictionaries, and positions in place of texts."""

from __future__ import annotations

from onnx import ModelProto, TensorProto, helper

from edgec.compiler.frontends.onnx.ml_outputs import to_tensors

ML = "ai.onnx.ml"


def classifier(labels: list[str] | None, *rest: object) -> ModelProto:
    texts = {"classlabels_strings": labels} if labels else {"classlabels_ints": [4, 9]}
    node = helper.make_node(
        "LinearClassifier", ["x"], ["label", "scores"], domain=ML, coefficients=[1.0, -1.0], **texts
    )
    kind = TensorProto.STRING if labels else TensorProto.INT64
    graph = helper.make_graph(
        [node, *rest],
        "classical",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 1])],
        [
            helper.make_tensor_value_info("out" if rest else "label", kind, [2]),
            helper.make_empty_tensor_value_info("maps"),
        ],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18), helper.make_opsetid(ML, 3)])


def zip_map() -> object:
    return helper.make_node("ZipMap", ["scores"], ["maps"], domain=ML, classlabels_strings=["cat", "dog"])


def attributes(model: ModelProto) -> dict[str, object]:
    return {a.name: helper.get_attribute_value(a) for a in model.graph.node[0].attribute}


def test_dictionaries_of_scores_become_their_tensor() -> None:
    cast = helper.make_node("Cast", ["label"], ["out"], to=TensorProto.INT64)
    model = classifier(None, zip_map(), cast)
    assert to_tensors(model) == ()
    assert [node.op_type for node in model.graph.node] == ["LinearClassifier", "Identity", "Cast"]
    assert list(model.graph.node[1].input) == ["scores"]
    assert model.graph.output[1].type.tensor_type.elem_type == TensorProto.FLOAT
    assert attributes(model)["classlabels_ints"] == [4, 9]


def test_texts_become_positions_and_labels() -> None:
    model = classifier(["cat", "dog"])
    assert to_tensors(model) == ("cat", "dog")
    assert attributes(model)["classlabels_ints"] == [0, 1]
    assert "classlabels_strings" not in attributes(model)
    assert model.graph.output[0].type.tensor_type.elem_type == TensorProto.INT64


def test_a_cast_of_texts_goes() -> None:
    model = classifier(["cat", "dog"], helper.make_node("Cast", ["label"], ["out"], to=TensorProto.STRING))
    assert to_tensors(model) == ("cat", "dog")
    assert model.graph.node[1].op_type == "Identity"
    assert model.graph.output[0].type.tensor_type.elem_type == TensorProto.INT64
