"""Normalisations against numpy in fp64, to 1e-5 of unit variance."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from onnx import helper

from tests.compiler.frontends.relax.converters.evaluate import assert_native, model_of

X = np.random.default_rng(7).standard_normal((2, 3, 4, 5)).astype("float32")
GAIN, SHIFT = np.array([0.5, 2.0, -1.0], "float32"), np.array([0.0, 1.0, -3.0], "float32")


def normal(x: np.ndarray, axes: tuple[int, ...], epsilon: float = 1e-5) -> np.ndarray:
    wide = x.astype("float64")
    spread = np.sqrt(wide.var(axis=axes, keepdims=True) + epsilon)
    return (wide - wide.mean(axis=axes, keepdims=True)) / spread


def along_channels(v: np.ndarray) -> np.ndarray:
    return v.reshape(1, -1, 1, 1)


def test_by_instance_layer_and_root_mean_square(tmp_path: Path) -> None:
    gain = np.linspace(0.5, 2, 5, dtype="float32")
    nodes = [
        helper.make_node("InstanceNormalization", ["x", "gain", "shift"], ["instance"]),
        helper.make_node("LayerNormalization", ["x", "row"], ["layer"], axis=-1),
        helper.make_node("LayerNormalization", ["x", "row"], ["three", "mean", "inverse"], axis=-1),
        helper.make_node("RMSNormalization", ["x", "row"], ["root"], axis=-1),
    ]
    wide = X.astype("float64")
    layer = normal(X, (3,)) * gain
    expected = {
        "instance": normal(X, (2, 3)) * along_channels(GAIN) + along_channels(SHIFT),
        "layer": layer,
        "three": layer,
        "mean": wide.mean(axis=3, keepdims=True),
        "inverse": 1 / np.sqrt(wide.var(axis=3, keepdims=True) + 1e-5),
        "root": wide / np.sqrt((wide**2).mean(axis=3, keepdims=True) + 1e-5) * gain,
    }
    expected = {name: value.astype("float32") for name, value in expected.items()}
    constants = {"gain": GAIN, "shift": SHIFT, "row": gain}
    model = model_of(nodes, {"x": X}, dict.fromkeys(expected, "float32"), constants, opset=23)
    assert_native(model, {"x": X}, tmp_path, expected, rtol=1e-5, atol=1e-5)


def test_by_norms_with_rows_of_zeros(tmp_path: Path) -> None:
    x = X[0, 0].copy()
    x[2] = 0
    nodes = [
        helper.make_node("LpNormalization", ["x"], ["one"], axis=1, p=1),
        helper.make_node("LpNormalization", ["x"], ["two"], axis=1, p=2),
    ]
    one, two = np.abs(x).sum(1, keepdims=True), np.sqrt((x**2).sum(1, keepdims=True))
    expected = {"one": x / np.where(one == 0, 1, one), "two": x / np.where(two == 0, 1, two)}
    model = model_of(nodes, {"x": x}, dict.fromkeys(expected, "float32"))
    assert_native(model, {"x": x}, tmp_path, expected, rtol=1e-6)


def test_by_the_batch_in_training_mode(tmp_path: Path) -> None:
    names = ["x", "gain", "shift", "mean", "variance"]
    outputs = ["y", "new_mean", "new_variance"]
    node = helper.make_node("BatchNormalization", names, outputs, training_mode=1, momentum=0.75)
    mean, variance = np.zeros(3, "float32"), np.ones(3, "float32")
    axes = (0, 2, 3)
    expected = {
        "y": normal(X, axes) * along_channels(GAIN) + along_channels(SHIFT),
        "new_mean": 0.75 * mean + 0.25 * X.mean(axis=axes),
        "new_variance": 0.75 * variance + 0.25 * X.var(axis=axes),
    }
    expected = {name: value.astype("float32") for name, value in expected.items()}
    constants = {"gain": GAIN, "shift": SHIFT, "mean": mean, "variance": variance}
    model = model_of([node], {"x": X}, dict.fromkeys(outputs, "float32"), constants)
    assert_native(model, {"x": X}, tmp_path, expected, rtol=1e-5, atol=1e-5)
