"""What ONNX Runtime is asked, and models that its own optimiser spoils."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from edgec.compiler.frontends.onnx.ort_session import objection, open_session, outputs_of
from tests.compiler.onnx_models import build, save


def quantised_input(dtype: str, opset: int) -> ModelProto:
    """Integers, dequantised and reshaped before an operator of floats reads them, as a recurrent layer does."""
    stored = {
        "scale": np.float32(0.05),
        "zero": np.array(3, dtype),
        "shape": np.array([4, 6], np.int64),
        "weights": np.ones((6, 3), "float32"),
    }
    nodes = [
        helper.make_node("DequantizeLinear", ["x", "scale", "zero"], ["real"]),
        helper.make_node("Reshape", ["real", "shape"], ["rows"]),
        helper.make_node("MatMul", ["rows", "weights"], ["y"]),
    ]
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    graph = helper.make_graph(
        nodes,
        "quantised",
        [helper.make_tensor_value_info("x", kind, [2, 12])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [4, 3])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in stored.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)


@pytest.mark.parametrize(("dtype", "opset"), [("int8", 18), ("int8", 21), ("int16", 21)])
def test_quantised_values_that_are_reshaped(dtype: str, opset: int, tmp_path: Path) -> None:
    model = quantised_input(dtype, opset)
    assert objection(model.SerializeToString()) is None
    x = np.arange(24).reshape(2, 12).astype(dtype)
    expected = ((x.astype("float32") - 3) * 0.05).reshape(4, 6).sum(axis=1, keepdims=True).repeat(3, axis=1)
    made = outputs_of(model, {"x": x})
    assert made is not None
    np.testing.assert_allclose(made[0], expected, atol=1e-5)
    if opset == 21 and dtype == "int8":
        imported, _ = build(save(model, tmp_path), tmp_path)
        assert not imported.segments


def test_two_grids_of_one_scale_stay_two() -> None:
    scale, zeros = np.float32(0.022), {"a": np.int8(5), "b": np.int8(1)}
    stored = {"scale": scale, **zeros, "one": np.float32(1)}
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "scale", "a"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "scale", "a"], ["d"]),
        helper.make_node("QuantizeLinear", ["d", "scale", "b"], ["r"]),
        helper.make_node("DequantizeLinear", ["r", "scale", "b"], ["e"]),
        helper.make_node("Add", ["e", "one"], ["y"]),
    ]
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [64]) for name in ("x", "y")]
    weights = [numpy_helper.from_array(np.asarray(value), name) for name, value in stored.items()]
    graph = helper.make_graph(nodes, "grids", values[:1], values[1:], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)
    x = np.linspace(-3, 3, 64, dtype="float32")
    session = open_session(model.SerializeToString(), threads=1)
    assert np.array_equal(session.run(None, {"x": x})[0], ReferenceEvaluator(model).run(None, {"x": x})[0])
