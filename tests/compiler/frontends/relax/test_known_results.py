"""Tensors without elements: inputs, results, and what is reduced to the neutral element."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from onnx import helper

from tests.compiler.frontends.relax.converters.evaluate import assert_native, model_of

NONE = np.zeros((0, 3), "float32")


def test_an_input_without_elements(tmp_path: Path) -> None:
    nodes = [helper.make_node("Relu", ["x"], ["y"]), helper.make_node("Shape", ["y"], ["shape"])]
    model = model_of(nodes, {"x": NONE}, {"y": "float32", "shape": "int64"})
    assert_native(model, {"x": NONE}, tmp_path, {"y": NONE, "shape": np.array([0, 3])})


def test_sums_and_products_of_nothing(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("ReduceSum", ["x", "axis"], ["sum"], keepdims=0),
        helper.make_node("ReduceProd", ["x", "axis"], ["product"], keepdims=0),
        helper.make_node("MatMul", ["turned", "x"], ["square"]),
        helper.make_node("Concat", ["x", "more"], ["joined"], axis=0),
    ]
    more = np.ones((2, 3), "float32")
    inputs = {"x": NONE, "turned": np.zeros((3, 0), "float32"), "more": more}
    outputs = dict.fromkeys(["sum", "product", "square", "joined"], "float32")
    model = model_of(nodes, inputs, outputs, {"axis": np.array([0])})
    expected = {
        "sum": np.zeros(3, "float32"),
        "product": np.ones(3, "float32"),
        "square": np.zeros((3, 3), "float32"),
        "joined": more,
    }
    assert_native(model, inputs, tmp_path, expected)


def test_a_result_without_elements_from_a_tensor_that_has_some(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Slice", ["x", "two", "two", "zero"], ["none"]),
        helper.make_node("Add", ["none", "x"], ["y"]),
    ]
    x = np.ones((1, 3), "float32")
    model = model_of(nodes, {"x": x}, {"y": "float32"}, {"two": np.array([2]), "zero": np.array([0])})
    assert_native(model, {"x": x}, tmp_path, {"y": NONE})
