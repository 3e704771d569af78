"""Tree ensembles, exactly: their leaves are sums of halves."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from onnx import helper

from tests.compiler.frontends.relax.converters.evaluate import assert_native, model_of

X = np.array([[0.5, 0.0], [0.51, 2.0], [np.nan, 3.0], [-1.0, 1.0]], "float32")
TREES = {
    "nodes_treeids": [0, 0, 0, 1, 1, 1],
    "nodes_nodeids": [0, 1, 2, 0, 1, 2],
    "nodes_featureids": [0, 0, 0, 1, 0, 0],
    "nodes_modes": ["BRANCH_LEQ", "LEAF", "LEAF", "BRANCH_GT", "LEAF", "LEAF"],
    "nodes_values": [0.5, 0.0, 0.0, 1.0, 0.0, 0.0],
    "nodes_truenodeids": [1, 0, 0, 1, 0, 0],
    "nodes_falsenodeids": [2, 0, 0, 2, 0, 0],
    "nodes_missing_value_tracks_true": [1, 0, 0, 0, 0, 0],
}


def test_a_regressor_with_missing_values(tmp_path: Path) -> None:
    node = helper.make_node(
        "TreeEnsembleRegressor",
        ["x"],
        ["y"],
        domain="ai.onnx.ml",
        target_treeids=[0, 0, 1, 1],
        target_nodeids=[1, 2, 1, 2],
        target_ids=[0, 0, 0, 0],
        target_weights=[1.0, -1.0, 4.0, 0.5],
        base_values=[10.0],
        n_targets=1,
        **TREES,
    )
    expected = np.array([[11.5], [13.0], [15.0], [11.5]], "float32")
    model = model_of([node], {"x": X}, {"y": "float32"})
    assert_native(model, {"x": X}, tmp_path, {"y": expected})


def test_a_classifier_of_three_classes(tmp_path: Path) -> None:
    node = helper.make_node(
        "TreeEnsembleClassifier",
        ["x"],
        ["label", "scores"],
        domain="ai.onnx.ml",
        class_treeids=[0, 0, 1, 1],
        class_nodeids=[1, 2, 1, 2],
        class_ids=[0, 1, 2, 0],
        class_weights=[1.0, 1.5, 2.0, 1.0],
        classlabels_int64s=[5, 6, 7],
        **TREES,
    )
    scores = np.array([[2, 0, 0], [0, 1.5, 2], [1, 0, 2], [2, 0, 0]], "float32")
    expected = {"label": np.array([5, 7, 7, 5]), "scores": scores}
    model = model_of([node], {"x": X}, {"label": "int64", "scores": "float32"})
    assert_native(model, {"x": X}, tmp_path, expected)
