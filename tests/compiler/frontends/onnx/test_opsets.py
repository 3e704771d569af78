"""Old and very new operator sets become one that the later stages know, and mean what they meant."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import AttributeProto, TensorProto, helper

from edgec.compiler.frontends.onnx.opsets import (
    LIFTED_OPSET,
    NEWEST_IR,
    NEWEST_OPSET,
    OLDEST_IR,
    lift_format,
    lift_opset,
    lower_opset,
    opset_of,
)
from edgec.compiler.frontends.onnx.ort_session import outputs_of
from tests.compiler.onnx_models import model_of


def test_the_format_is_lifted_in_place() -> None:
    node = helper.make_node("Concat", ["x", "x"], ["y"], axis=0, domain="ai.onnx")
    model = model_of([node], {"x": [4]}, ["y"], opset=17)
    model.opset_import[0].domain = "ai.onnx"
    model.ir_version = 3
    model.graph.node[0].attribute[0].type = AttributeProto.UNDEFINED
    lift_format(model)
    assert model.ir_version == OLDEST_IR
    assert opset_of(model) == 17
    assert model.graph.node[0].domain == ""
    assert model.graph.node[0].attribute[0].type == AttributeProto.INT
    model.ir_version = NEWEST_IR + 5
    lift_format(model)
    assert model.ir_version == NEWEST_IR


def test_a_model_from_before_versions_has_the_first_operator_set() -> None:
    model = model_of([helper.make_node("Relu", ["x"], ["y"])], {"x": [4]}, ["y"])
    del model.opset_import[:]
    model.ir_version = 2
    lift_format(model)
    assert opset_of(model) == 1


def test_old_operators_are_lifted_and_compute_the_same() -> None:
    node = helper.make_node("Squeeze", ["x"], ["y"], axes=[0])
    model = model_of([node], {"x": [1, 4]}, ["y"], opset=11)
    lifted = lift_opset(model)
    assert opset_of(lifted) == LIFTED_OPSET
    assert len(lifted.graph.node[-1].input) == 2  # axes are an input by now
    x = {"x": np.arange(4, dtype="float32").reshape(1, 4)}
    np.testing.assert_array_equal(outputs_of(lifted, x), outputs_of(model, x))


@pytest.mark.parametrize("limits", [{}, {"min": -1.0}, {"max": 2.0}])
def test_limits_left_out_of_old_clips_are_finite(limits: dict[str, float]) -> None:
    model = model_of([helper.make_node("Clip", ["x"], ["y"], **limits)], {"x": [4]}, ["y"], opset=6)
    x = {"x": np.array([np.inf, -np.inf, np.nan, 7], "float32")}
    before = outputs_of(model, x)
    np.testing.assert_array_equal(outputs_of(lift_opset(model), x), before)
    assert np.isfinite(before[0][:2]).all()


def test_a_model_that_the_converter_cannot_lift_stays() -> None:
    nodes = [helper.make_node("Warp", ["x"], ["y"])]
    model = model_of(nodes, {"x": [4]}, ["y"], opset=9)
    assert lift_opset(model) is model


def test_a_newer_operator_set_than_onnx_runtime_knows_is_lowered() -> None:
    model = model_of([helper.make_node("Relu", ["x"], ["y"])], {"x": [4]}, ["y"], opset=NEWEST_OPSET + 1)
    model.graph.output[0].type.tensor_type.elem_type = TensorProto.FLOAT
    assert opset_of(lower_opset(model)) == NEWEST_OPSET
