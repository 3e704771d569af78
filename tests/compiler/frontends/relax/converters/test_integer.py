"""Integer arithmetic of quantised models, exactly, against sums of 64-bit integers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from onnx import helper

from tests.compiler.frontends.relax.converters.evaluate import assert_native, model_of

RNG = np.random.default_rng(13)


def test_products_of_extreme_integers(tmp_path: Path) -> None:
    """Sums of 300 extreme products are beyond what fp32 holds exactly, and beyond what int16 holds."""
    a = np.full((2, 300), 255, "uint8")
    b = RNG.choice(np.array([-128, 127], "int8"), (300, 5))
    node = helper.make_node("MatMulInteger", ["a", "b", "za", "zb"], ["y"])
    zeros = {"za": np.array(3, "uint8"), "zb": np.array([0, -128, 5, 127, 1], "int8")}
    expected = (a.astype("int64") - 3) @ (b.astype("int64") - zeros["zb"].astype("int64"))
    model = model_of([node], {"a": a}, {"y": "int32"}, {"b": b, **zeros})
    assert_native(model, {"a": a}, tmp_path, {"y": expected.astype("int32")})


def test_a_quantised_convolution_rounds_half_to_even(tmp_path: Path) -> None:
    x = RNG.integers(0, 256, (1, 2, 4, 4)).astype("uint8")
    w = RNG.integers(-128, 128, (3, 2, 1, 1)).astype("int8")
    names = ["x", "sx", "zx", "w", "sw", "zw", "sy", "zy", "b"]
    constants = {
        "sx": np.array(0.5, "float32"),
        "zx": np.array(128, "uint8"),
        "w": w,
        "sw": np.array([0.25, 0.125, 0.5], "float32"),
        "zw": np.array([0, 0, 0], "int8"),
        "sy": np.array(16.0, "float32"),
        "zy": np.array(100, "uint8"),
        "b": np.array([100, -7, 0], "int32"),
    }
    sums = np.einsum("nchw,oc->nohw", x.astype("int64") - 128, w[..., 0, 0].astype("int64"))
    sums = sums + constants["b"].reshape(1, 3, 1, 1)
    steps = np.round(sums * 0.5 * constants["sw"].reshape(1, 3, 1, 1) / 16.0) + 100  # all exact in fp32
    expected = np.clip(steps, 0, 255).astype("uint8")
    model = model_of([helper.make_node("QLinearConv", names, ["y"])], {"x": x}, {"y": "uint8"}, constants)
    assert_native(model, {"x": x}, tmp_path, {"y": expected})


def test_dynamic_quantisation(tmp_path: Path) -> None:
    x = np.array([[-1.0, 0.25, 2.0], [0.0, 1.75, -0.5]], "float32")
    node = helper.make_node("DynamicQuantizeLinear", ["x"], ["y", "scale", "zero"])
    outputs = {"y": "uint8", "scale": "float32", "zero": "uint8"}
    model = model_of([node], {"x": x}, outputs)
    assert_native(model, {"x": x}, tmp_path, rtol=1e-7)


def test_dynamic_quantisation_of_zeros_has_the_scale_one(tmp_path: Path) -> None:
    """Models divide their biases by it. The standard leaves 0 / 0 open; ONNX Runtime takes 1."""
    x = np.zeros((2, 3), "float32")
    nodes = [
        helper.make_node("DynamicQuantizeLinear", ["x"], ["y", "scale", "zero"]),
        helper.make_node("Div", ["bias", "scale"], ["quotient"]),
    ]
    outputs = {"y": "uint8", "scale": "float32", "zero": "uint8", "quotient": "float32"}
    model = model_of(nodes, {"x": x}, outputs, {"bias": np.array([3.5], "float32")})
    expected = {"y": np.zeros((2, 3), "uint8"), "scale": np.float32(1), "zero": np.uint8(0)}
    assert_native(model, {"x": x}, tmp_path, {**expected, "quotient": np.array([3.5], "float32")})
