"""From scores to probabilities, to 1e-5."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from onnx import helper

from tests.compiler.frontends.relax.converters.evaluate import assert_native, model_of

X = np.array([[-2.0], [0.0], [0.5]], "float32")


def test_one_score_for_two_classes(tmp_path: Path) -> None:
    node = helper.make_node(
        "LinearClassifier",
        ["x"],
        ["label", "scores"],
        domain="ai.onnx.ml",
        coefficients=[1.0],
        classlabels_ints=[3, 8],
        post_transform="LOGISTIC",
    )
    share = 1 / (1 + np.exp(-X))
    expected = {
        "label": np.array([3, 3, 8]),
        "scores": np.concatenate([1 - share, share], axis=1).astype("float32"),
    }
    model = model_of([node], {"x": X}, {"label": "int64", "scores": "float32"})
    assert_native(model, {"x": X}, tmp_path, expected, rtol=1e-5)


def test_softmax_zero_leaves_absent_classes_at_zero(tmp_path: Path) -> None:
    x = np.array([[1.0, 0.0], [0.0, 0.0]], "float32")
    node = helper.make_node(
        "LinearRegressor",
        ["x"],
        ["y"],
        domain="ai.onnx.ml",
        coefficients=[1.0, 0.0, 0.0, 1.0, 2.0, 0.0],
        targets=3,
        post_transform="SOFTMAX_ZERO",
        intercepts=[0.0, 0.0, 1.0],
    )
    e = np.exp([1.0, 3.0]) / np.exp([1.0, 3.0]).sum()
    expected = np.array([[e[0], 0, e[1]], [0, 0, 1]], "float32")
    model = model_of([node], {"x": x}, {"y": "float32"})
    assert_native(model, {"x": x}, tmp_path, {"y": expected}, atol=1e-6)
