"""Inputs made up for verification lie where the model's own inputs do."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from onnx import helper

from edgec.compiler.frontends import load_source
from edgec.compiler.options import CompileOptions
from edgec.compiler.verify.inputs import make_inputs
from tests.compiler.onnx_models import assert_same, model_of, save


def made_for(nodes: list[object], constants: dict[str, np.ndarray], folder: Path) -> np.ndarray:
    model = model_of(nodes, {"x": [1, 3, 32, 32]}, ["y"], constants)
    return make_inputs(load_source(save(model, folder), CompileOptions()))["x"]


def test_pictures_are_in_the_range_that_the_model_centres(tmp_path: Path) -> None:
    means = np.array([104.0, 117.0, 124.0], "float32").reshape(3, 1, 1)
    bytes_in = made_for([helper.make_node("Sub", ["x", "m"], ["y"])], {"m": means}, tmp_path)
    assert 200 < bytes_in.max() <= 255
    assert bytes_in.min() >= 0
    unit_in = made_for([helper.make_node("Sub", ["x", "m"], ["y"])], {"m": means / 255}, tmp_path)
    assert unit_in.max() <= 1
    old = helper.make_node("ImageScaler", ["x"], ["y"], bias=[-104.0, -117.0, -124.0], scale=1.0)
    assert made_for([old], {}, tmp_path).max() > 200


def test_a_sigmoid_between_two_roundings_compiles(tmp_path: Path) -> None:
    """Its variables are bound once, however often the vectoriser looks at them."""
    rows, scales = (("q1", "d1"), ("q2", "d2")), {"s1": 0.34, "s2": 0.0039}
    constants = {name: np.array(value, "float32") for name, value in scales.items()}
    constants |= {"z1": np.array(100, "int8"), "z2": np.array(-128, "int8")}
    nodes, value = [], "x"
    for number, (quantised, back) in enumerate(rows, start=1):
        grid = [f"s{number}", f"z{number}"]
        nodes.append(helper.make_node("QuantizeLinear", [value, *grid], [quantised]))
        nodes.append(helper.make_node("DequantizeLinear", [quantised, *grid], [back]))
        value = back
        if number == 1:
            nodes.append(helper.make_node("Sigmoid", [back], ["s"]))
            value = "s"
    nodes.append(helper.make_node("Mul", ["d2", "two"], ["y"]))
    constants["two"] = np.array(2, "float32")
    model = model_of(nodes, {"x": [1, 64]}, ["y"], constants)
    x = np.random.default_rng(0).standard_normal((1, 64)).astype("float32") * 20
    assert_same(model, {"x": x}, tmp_path, atol=0.0079)
