"""Activation functions against numpy; one step of float32 (1.2e-7 of the value) and 1e-6 absolute."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from onnx import helper

from tests.compiler.frontends.relax.converters.evaluate import assert_native, model_of

X = np.array([[[-3.0, -0.5], [0.0, 0.7]], [[2.5, -1.0], [1.0, -0.0]]], "float32")  # [batch, channels, width]
LIMITS = {"rtol": 1e-6, "atol": 1e-6}


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def test_of_the_present_standard(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Elu", ["x"], ["elu"], alpha=0.3),
        helper.make_node("Celu", ["x"], ["celu"], alpha=2.0),
        helper.make_node("PRelu", ["x", "slope"], ["prelu"]),
    ]
    slope = np.array([[0.1], [-2.0]], "float32")
    expected = {
        "elu": np.where(X > 0, X, 0.3 * np.expm1(X)),
        "celu": np.maximum(X, 0) + np.minimum(0, 2 * np.expm1(X / 2)),
        "prelu": np.where(X >= 0, X, X * slope),
    }
    model = model_of(nodes, {"x": X}, dict.fromkeys(expected, "float32"), {"slope": slope})
    assert_native(model, {"x": X}, tmp_path, expected, **LIMITS)


def test_swish_with_a_factor(tmp_path: Path) -> None:
    node = helper.make_node("Swish", ["x"], ["y"], alpha=1.5)
    model = model_of([node], {"x": X}, {"y": "float32"}, opset=24)
    assert_native(model, {"x": X}, tmp_path, {"y": X * sigmoid(1.5 * X)}, **LIMITS)


def test_of_microsoft(tmp_path: Path) -> None:
    node = helper.make_node("QuickGelu", ["x"], ["y"], domain="com.microsoft", alpha=1.7)
    model = model_of([node], {"x": X}, {"y": "float32"})
    assert_native(model, {"x": X}, tmp_path, {"y": X * sigmoid(np.float32(1.7) * X)}, **LIMITS)


def test_activations_fused_into_a_convolution(tmp_path: Path) -> None:
    x, w = np.linspace(-2, 2, 9, dtype="float32").reshape(1, 1, 3, 3), np.ones((1, 1, 1, 1), "float32")
    chosen = {
        "Relu": ([], np.maximum(x, 0)),
        "LeakyRelu": ([0.2], np.where(x > 0, x, np.float32(0.2) * x)),
        "Clip": ([-0.5, 1.0], np.clip(x, -0.5, 1.0)),
        "HardSigmoid": ([0.3, 0.4], np.clip(np.float32(0.3) * x + np.float32(0.4), 0, 1)),
    }
    nodes = [
        helper.make_node(
            "FusedConv",
            ["x", "w"],
            [name],
            domain="com.microsoft",
            kernel_shape=[1, 1],
            activation=name,
            **({"activation_params": values} if values else {}),
        )
        for name, (values, _) in chosen.items()
    ]
    model = model_of(nodes, {"x": x}, dict.fromkeys(chosen, "float32"), {"w": w})
    assert_native(model, {"x": x}, tmp_path, {name: y for name, (_, y) in chosen.items()}, **LIMITS)


def test_softplus_of_large_numbers_is_the_number(tmp_path: Path) -> None:
    x = np.array([-200, -1, 0, 2, 100, 1e4, np.inf, -np.inf, np.nan], "float32")
    node = helper.make_node("ParametricSoftplus", ["x"], ["y"], alpha=0.5, beta=2.0)
    model = model_of([node], {"x": x}, {"y": "float32"}, opset=7)
    with np.errstate(invalid="ignore"):
        expected = {"y": 0.5 * np.logaddexp(0, 2 * x.astype("float64")).astype("float32")}
    assert_native(model, {"x": x}, tmp_path, expected, rtol=1e-6, atol=1e-6)
