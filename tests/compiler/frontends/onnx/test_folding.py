"""Sizes that follow from shapes are computed, whether or not ONNX Runtime knows all of a model's operators."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator

import edgec.runtime as rt
from edgec.compiler.frontends.onnx.folding import MOST_ELEMENTS, fold_shapes
from tests.compiler.onnx_models import build, model_of, save

RNG = np.random.default_rng(12)


def test_shapes_fold_beside_an_operator_that_onnx_runtime_lacks(tmp_path: Path) -> None:
    """One unknown operator, and ONNX Runtime folds nothing: sizes are computed here."""
    nodes = [
        helper.make_node("SwiGLU", ["x", "x"], ["g"], name="glu"),
        helper.make_node("Shape", ["g"], ["sizes"]),
        helper.make_node("Gather", ["sizes", "last"], ["width"], axis=0),
        helper.make_node("Unsqueeze", ["width", "front"], ["wide"]),
        helper.make_node("Concat", ["all", "wide"], ["flat"], axis=0),
        helper.make_node("Reshape", ["g", "flat"], ["r"], name="flat"),
        helper.make_node("Range", ["from", "width", "by"], ["steps"], name="steps"),
        helper.make_node("Cast", ["steps"], ["ramp"], to=TensorProto.FLOAT),
        helper.make_node("Add", ["r", "ramp"], ["y"], name="add"),
    ]
    constants = {"last": -1, "from": 0, "by": 1}
    stored = {name: np.array(value, "int64") for name, value in constants.items()}
    stored |= {"front": np.array([0], "int64"), "all": np.array([-1], "int64")}
    model = model_of(nodes, {"x": [2, 3, 8]}, ["y"], stored, opset=28)
    x = RNG.standard_normal((2, 3, 8)).astype("float32")
    (expected,) = ReferenceEvaluator(model).run(None, {"x": x})
    imported, artifact = build(save(model, tmp_path), tmp_path)
    assert not imported.segments
    with rt.load(artifact, threads=1) as loaded:
        got = loaded.run({"x": x})["y"]
    np.testing.assert_allclose(got, expected, atol=1e-5)


def test_values_without_end_are_not_computed() -> None:
    """Sizes that a file only names cost nothing: a small value is folded, a large one stays a node."""
    for size, left in ((MOST_ELEMENTS, ["Add"]), (1 << 31, ["ConstantOfShape", "ReduceMax", "Add"])):
        nodes = [
            helper.make_node("ConstantOfShape", ["size"], ["zeros"]),
            helper.make_node("ReduceMax", ["zeros"], ["none"], keepdims=0),
            helper.make_node("Add", ["x", "none"], ["y"]),
        ]
        model = model_of(nodes, {"x": [2, 8]}, ["y"], {"size": np.array([size], "int64")})
        assert [node.op_type for node in fold_shapes(model).graph.node] == left
