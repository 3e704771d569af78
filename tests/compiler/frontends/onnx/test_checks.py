"""Unknown element types are refused with a message, wherever in a file they stand."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from onnx import AttributeProto, ModelProto, TensorProto, TypeProto, helper, numpy_helper

from edgec.compiler.errors import ModelError
from edgec.compiler.frontends import load_source
from edgec.compiler.frontends.onnx.checks import ELEMENT_TYPES
from edgec.compiler.options import CompileOptions
from tests.compiler.onnx_models import model_of, save

UNKNOWN = 99


def model() -> ModelProto:
    """A model with everything in it that names an element type."""
    nodes = [
        helper.make_node("Cast", ["x"], ["c"], name="cast", to=TensorProto.INT32),
        helper.make_node("Cast", ["c"], ["d"], name="back", to=TensorProto.FLOAT),
        helper.make_node("Constant", [], ["k"], value=numpy_helper.from_array(np.ones(4, "float32"))),
        helper.make_node("Add", ["d", "k"], ["e"]),
        helper.make_node("Add", ["e", "w"], ["f"]),
        helper.make_node("If", ["b"], ["g"], then_branch=branch(), else_branch=branch()),
        helper.make_node("Add", ["f", "g"], ["h"]),
        helper.make_node("twice", ["h"], ["y"], domain="own"),
    ]
    inside = [
        helper.make_node("Constant", [], ["k"], value=numpy_helper.from_array(np.ones(4, "float32"))),
        helper.make_node("Add", ["x", "k"], ["y"]),
    ]
    opsets = [helper.make_opsetid("", 17)]
    twice = helper.make_function("own", "twice", ["x"], ["y"], inside, opsets)
    made = model_of(
        nodes,
        {"x": [4], "b": (TensorProto.BOOL, [1])},
        ["y"],
        {"w": np.ones(4, "float32")},
        functions=[twice],
    )
    made.graph.value_info.append(helper.make_tensor_value_info("c", TensorProto.INT32, [4]))
    made.opset_import.add(domain="own", version=1)
    return made


def branch() -> object:
    value = helper.make_tensor_value_info("v", TensorProto.FLOAT, [4])
    return helper.make_graph(
        [helper.make_node("Identity", ["u"], ["v"])],
        "branch",
        [],
        [value],
        [numpy_helper.from_array(np.ones(4, "float32"), "u")],
        value_info=[helper.make_tensor_value_info("u", TensorProto.FLOAT, [4])],
    )


def initializer(m: ModelProto) -> None:
    m.graph.initializer[0].data_type = UNKNOWN


def input_type(m: ModelProto) -> None:
    m.graph.input[0].type.tensor_type.elem_type = UNKNOWN


def output_type(m: ModelProto) -> None:
    m.graph.output[0].type.tensor_type.elem_type = UNKNOWN


def value_info(m: ModelProto) -> None:
    m.graph.value_info[0].type.tensor_type.elem_type = UNKNOWN


def sequence(m: ModelProto) -> None:
    inner = TypeProto(tensor_type=TypeProto.Tensor(elem_type=UNKNOWN))
    m.graph.value_info[0].type.CopyFrom(TypeProto(sequence_type=TypeProto.Sequence(elem_type=inner)))


def optional_input(m: ModelProto) -> None:
    inner = TypeProto(tensor_type=TypeProto.Tensor(elem_type=UNKNOWN))
    m.graph.input[0].type.CopyFrom(TypeProto(optional_type=TypeProto.Optional(elem_type=inner)))


def cast_to(m: ModelProto) -> None:
    m.graph.node[0].attribute[0].i = UNKNOWN


def cast_to_nothing(m: ModelProto) -> None:
    m.graph.node[0].attribute[0].i = 0


def constant(m: ModelProto) -> None:
    m.graph.node[2].attribute[0].t.data_type = UNKNOWN


def untyped_constant(m: ModelProto) -> None:
    """The attribute's own type is left to be seen from its value, as in the first format."""
    constant(m)
    m.graph.node[2].attribute[0].type = AttributeProto.UNDEFINED


def in_a_branch(m: ModelProto) -> None:
    m.graph.node[5].attribute[0].g.value_info[0].type.tensor_type.elem_type = UNKNOWN


def stored_in_a_branch(m: ModelProto) -> None:
    m.graph.node[5].attribute[0].g.initializer[0].data_type = UNKNOWN


def in_a_function(m: ModelProto) -> None:
    m.functions[0].node[0].attribute[0].t.data_type = UNKNOWN


def sparse(m: ModelProto) -> None:
    stored = m.graph.sparse_initializer.add()
    stored.values.CopyFrom(numpy_helper.from_array(np.ones(1, "float32"), "s"))
    stored.values.data_type = UNKNOWN
    stored.indices.CopyFrom(numpy_helper.from_array(np.zeros(1, "int64")))
    stored.dims.append(4)


PLACES = (
    initializer,
    input_type,
    output_type,
    value_info,
    sequence,
    optional_input,
    cast_to,
    cast_to_nothing,
)
PLACES += (constant, untyped_constant, in_a_branch, stored_in_a_branch, in_a_function, sparse)


def test_the_model_itself_is_read(tmp_path: Path) -> None:
    assert load_source(save(model(), tmp_path), CompileOptions()).inputs[0].shape == (4,)


@pytest.mark.parametrize("damage", PLACES, ids=lambda damage: str(damage.__name__))
def test_an_unknown_element_type(damage: Callable[[ModelProto], None], tmp_path: Path) -> None:
    damaged = model()
    damage(damaged)
    with pytest.raises(ModelError, match=r"unknown element type (99|0)") as caught:
        load_source(save(damaged, tmp_path), CompileOptions())
    assert str(caught.value).startswith(str(tmp_path))
    assert len(str(caught.value).splitlines()) == 1


def test_an_attribute_without_a_type_or_value(tmp_path: Path) -> None:
    damaged = model()
    damaged.graph.node[0].attribute[0].CopyFrom(AttributeProto(name="to"))
    with pytest.raises(ModelError, match=r"attribute 'to' of Cast 'cast' has no known type"):
        load_source(save(damaged, tmp_path), CompileOptions())


def test_every_type_of_the_standard_has_one_of_numpy() -> None:
    """What the checks let pass must not end in a KeyError later."""
    for number in ELEMENT_TYPES:
        assert helper.tensor_dtype_to_np_dtype(number) is not None


@pytest.mark.parametrize(
    ("domain", "version", "told"),
    [
        ("", 99, "operator set ai.onnx"),
        ("ai.onnx", 99, "operator set ai.onnx"),
        ("ai.onnx.ml", 99, "set ai.onnx.ml"),
    ],
)
def test_operator_sets_of_the_future_are_refused(
    tmp_path: Path, domain: str, version: int, told: str
) -> None:
    made = model_of([helper.make_node("Relu", ["x"], ["y"])], {"x": [4]}, ["y"])
    del made.opset_import[:]
    made.opset_import.extend([helper.make_opsetid("", 17)] * bool(domain == "ai.onnx.ml"))
    made.opset_import.append(helper.make_opsetid(domain, version))
    with pytest.raises(ModelError, match=rf"uses version 99 of the .*{told}.*update edgec"):
        load_source(save(made, tmp_path), CompileOptions())


def test_a_file_format_of_the_future_is_refused(tmp_path: Path) -> None:
    made = model_of([helper.make_node("Relu", ["x"], ["y"])], {"x": [4]}, ["y"])
    made.ir_version = 99
    with pytest.raises(ModelError, match=r"file format 99, .*export the model with an older format"):
        load_source(save(made, tmp_path), CompileOptions())
