"""Input shapes become static: from the user, the model, a shared symbol, or batch 1; sizes have a limit."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import ModelProto, TensorProto, helper

from edgec.compiler.errors import InputShapeError, ModelError
from edgec.compiler.frontends.onnx.shape_inference import check_sizes, infer_shapes
from edgec.compiler.frontends.onnx.shapes import describe_shape, set_static_shapes, strip_initializer_inputs
from tests.compiler.onnx_models import model_of


def model(**inputs: list[object]) -> ModelProto:
    nodes = [helper.make_node("Relu", ["x"], ["y"])]
    return model_of(nodes, inputs, ["y"])


def static(made: ModelProto, **asked: tuple[int, ...]) -> dict[str, str]:
    set_static_shapes(made, asked)
    return {value.name: describe_shape(value) for value in made.graph.input}


def test_the_batch_is_one_and_shared_sizes_are_shared() -> None:
    assert static(model(x=["N", 3])) == {"x": "1x3"}
    made = model(x=["N", 3, "size"], z=["size", "N"])
    assert static(made, x=(2, 3, 7)) == {"x": "2x3x7", "z": "7x2"}


def test_anonymous_sizes_need_not_be_equal() -> None:
    made = model(x=["?", 3, "?", "?"], z=["None", "None"])
    assert static(made, x=(2, 3, 6, 9), z=(4, 5)) == {"x": "2x3x6x9", "z": "4x5"}


def test_a_declared_size_of_zero_is_none_unless_another_is_given() -> None:
    assert static(model(x=[0, 3])) == {"x": "0x3"}
    assert static(model(x=[0, 3]), x=(2, 3)) == {"x": "2x3"}
    assert static(model(x=["N", 3]), x=(0, 3)) == {"x": "0x3"}


def test_what_was_chosen_is_told() -> None:
    assert set_static_shapes(model(x=["N", 3], z=[2, "N"]), {}) == [
        "N = 1 in the input 'x', which is now 1x3: --input sets other sizes",
        "N = 1 in the input 'z', which is now 2x1: --input sets other sizes",
    ]
    assert set_static_shapes(model(x=["N", 3], z=[2, 5]), {"x": (4, 3)}) == []


def test_what_does_not_fit_is_told_with_the_shape_of_the_model() -> None:
    with pytest.raises(InputShapeError, match=r"--input x:Nx3xsize"):
        static(model(x=["N", 3, "size"]))
    with pytest.raises(InputShapeError, match=r"1x3xsize in the model; 1x4x7 does not fit"):
        static(model(x=[1, 3, "size"]), x=(1, 4, 7))
    with pytest.raises(InputShapeError, match=r"'size' would be 7 and 8 at once"):
        static(model(x=["N", "size"], z=["M", "size"]), x=(1, 7), z=(1, 8))
    with pytest.raises(InputShapeError, match="no input 'q'"):
        static(model(x=[4]), q=(4,))
    text = model(x=[4])
    text.graph.input[0].type.tensor_type.elem_type = TensorProto.STRING
    with pytest.raises(ModelError, match="not a tensor of numbers"):
        static(text)


def test_values_larger_than_any_real_one_are_refused() -> None:
    nodes = [helper.make_node("MatMul", ["x", "z"], ["y"])]
    made = model_of(nodes, {"x": [1 << 17, 1], "z": [1, 1 << 17]}, ["y"])
    made.graph.value_info.append(helper.make_tensor_value_info("y", TensorProto.FLOAT, [1 << 17, 1 << 17]))
    with pytest.raises(ModelError, match="larger than 8 GiB"):
        check_sizes(made)


def test_weights_are_no_inputs_and_shapes_are_inferred() -> None:
    made = model_of(
        [helper.make_node("Flatten", ["x"], ["f"]), helper.make_node("Relu", ["f"], ["y"])],
        {"x": [2, 3, 4], "w": [4]},
        ["y"],
    )
    made.graph.initializer.append(helper.make_tensor("w", TensorProto.FLOAT, [4], [0.0] * 4))
    strip_initializer_inputs(made)
    assert [value.name for value in made.graph.input] == ["x"]
    known = {value.name: describe_shape(value) for value in infer_shapes(made).graph.value_info}
    assert known["f"] == "2x12"


def test_a_table_of_texts_as_output_is_refused_and_named() -> None:
    made = model_of([helper.make_node("Gather", ["words", "x"], ["y"])], {"x": [2]}, ["y"])
    made.graph.output[0].type.tensor_type.elem_type = TensorProto.STRING
    with pytest.raises(ModelError, match=r"output 'y' holds texts.*look them up in the application"):
        static(made)


def test_a_short_time_fourier_transform_is_one_sided_unless_it_says_otherwise() -> None:
    sizes = {"step": 160, "length": 400}
    constants = {name: np.array(value) for name, value in sizes.items()}
    nodes = [
        helper.make_node("STFT", ["x", "step", "", "length"], ["s"]),
        helper.make_node("Abs", ["s"], ["y"]),
    ]
    inferred = infer_shapes(model_of(nodes, {"x": [1, 4000, 1]}, ["y"], constants))
    (value,) = (v for v in inferred.graph.value_info if v.name == "s")
    assert describe_shape(value) == "1x23x201x2"
