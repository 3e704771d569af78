"""Linear regression and classification against numpy, to 1e-5."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from onnx import helper

from tests.compiler.frontends.relax.converters.evaluate import assert_native, model_of

X = np.random.default_rng(5).standard_normal((4, 3)).astype("float32")
W = np.random.default_rng(6).standard_normal((3, 3)).astype("float32")
ML = {"domain": "ai.onnx.ml", "coefficients": [float(v) for v in W.reshape(-1)]}
B = np.array([0.5, -1.0, 0.0], "float32")


def test_three_classes_with_labels_of_their_own(tmp_path: Path) -> None:
    node = helper.make_node(
        "LinearClassifier",
        ["x"],
        ["label", "scores"],
        intercepts=[float(v) for v in B],
        classlabels_ints=[4, 7, 9],
        post_transform="SOFTMAX",
        **ML,
    )
    scores = X @ W.T + B
    shares = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
    expected = {"label": np.array([4, 7, 9])[scores.argmax(axis=1)], "scores": shares}
    model = model_of([node], {"x": X}, {"label": "int64", "scores": "float32"})
    assert_native(model, {"x": X}, tmp_path, expected, rtol=1e-5, atol=1e-6)


def test_regression_of_several_targets(tmp_path: Path) -> None:
    node = helper.make_node(
        "LinearRegressor", ["x"], ["y"], intercepts=[float(v) for v in B], targets=3, **ML
    )
    model = model_of([node], {"x": X}, {"y": "float32"})
    assert_native(model, {"x": X}, tmp_path, {"y": X @ W.T + B}, rtol=1e-5, atol=1e-5)
