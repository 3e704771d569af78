"""Tree ensembles, exactly: their leaves are sums of halves."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

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


def _doubles(name: str, values: list[float]) -> onnx.TensorProto:
    return numpy_helper.from_array(np.array(values, np.float64), name)


@pytest.mark.parametrize("aggregate", ["SUM", "AVERAGE", "MIN", "MAX"])
def test_fp64_features_are_compared_in_fp64(aggregate: str, tmp_path: Path) -> None:
    """Thresholds between which fp32 has no numbers, and weights that fp32 cannot hold."""
    near = 0.5 + 2.0**-40
    trees = {key: value for key, value in TREES.items() if key != "nodes_values"}
    node = helper.make_node(
        "TreeEnsembleRegressor",
        ["x"],
        ["y"],
        domain="ai.onnx.ml",
        nodes_values_as_tensor=_doubles("values", [near, 0.0, 0.0, 1.0, 0.0, 0.0]),
        target_treeids=[0, 0, 1, 1, 0, 1],
        target_nodeids=[1, 2, 1, 2, 1, 1],
        target_ids=[0, 0, 0, 0, 1, 1],
        target_weights_as_tensor=_doubles("weights", [1.0, -1.0, 4.0, 0.5, 8.0, 16.0]),
        aggregate_function=aggregate,
        n_targets=2,
        **trees,
    )
    x = np.array([[near, 0.0], [near + 2.0**-50, 2.0], [np.nan, 3.0], [np.inf, -np.inf]], np.float64)
    first, second = [1.0, -1.0, 1.0, -1.0], [0.5, 4.0, 4.0, 0.5]
    combine = {"SUM": np.add, "AVERAGE": lambda a, b: (a + b) / 2, "MIN": np.minimum, "MAX": np.maximum}
    neutral = {"MIN": np.inf, "MAX": -np.inf}.get(aggregate, 0.0)
    other = [(8.0, neutral), (neutral, 16.0), (8.0, 16.0), (neutral, neutral)]
    columns = [combine[aggregate](np.array(first), np.array(second))]
    columns.append(combine[aggregate](np.array([a for a, _ in other]), np.array([b for _, b in other])))
    expected = np.stack(columns, axis=1).astype("float32")
    model = model_of([node], {"x": x}, {"y": "float32"})
    assert_native(model, {"x": x}, tmp_path, {"y": expected})


def test_sets_of_any_numbers(tmp_path: Path) -> None:
    """A TreeEnsemble that asks for membership among numbers that are no categories, in fp64 and in fp32."""
    for dtype in (np.float64, np.float32):

        def tensor(name: str, values: list[float], dtype: type = dtype) -> onnx.TensorProto:
            return numpy_helper.from_array(np.array(values, dtype), name)

        node = helper.make_node(
            "TreeEnsemble",
            ["x"],
            ["y"],
            domain="ai.onnx.ml",
            n_targets=1,
            aggregate_function=1,
            tree_roots=[0],
            nodes_modes=numpy_helper.from_array(np.array([6, 0], np.uint8), "modes"),
            nodes_featureids=[0, 1],
            nodes_splits=tensor("splits", [0.0, 0.25]),
            membership_values=tensor("members", [-1.5, 1.2, 3.0, np.nan]),
            nodes_truenodeids=[0, 1],
            nodes_trueleafs=[1, 1],
            nodes_falsenodeids=[1, 2],
            nodes_falseleafs=[0, 1],
            leaf_targetids=[0, 0, 0],
            leaf_weights=tensor("weights", [0.1, 0.2, 0.3]),
        )
        x = np.array([[1.2, 0.0], [-1.5, 9.0], [1.0, 0.25], [3.0, 0.0], [2.9, 0.3], [np.nan, 0.0]], dtype)
        expected = np.array([[0.1], [0.1], [0.2], [0.1], [0.3], [0.2]], dtype)
        model = model_of([node], {"x": x}, {"y": dtype}, opset=20)
        model.opset_import[2].version = 5
        folder = tmp_path / np.dtype(dtype).name
        folder.mkdir()
        assert_native(model, {"x": x}, folder, {"y": expected})
