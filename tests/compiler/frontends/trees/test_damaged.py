"""Damaged forests are refused before their library sees them: damage that it does not check ends the process."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgec.compiler.errors import ModelError
from edgec.compiler.frontends import load_source
from edgec.compiler.options import CompileOptions

OPTIONS = CompileOptions()
ROWS = np.random.default_rng(0).random((60, 4)).astype("float32")
Document = dict[str, Any]


def boosted(**parameters: object) -> Any:
    xgboost = pytest.importorskip("xgboost", reason="optional: pip install 'edgec[trees]'")
    labels = np.random.default_rng(1).integers(0, 3, 60)
    given = {"objective": "multi:softprob", "num_class": 3, "max_depth": 2, "seed": 0} | parameters
    return xgboost.train(given, xgboost.DMatrix(ROWS, labels), 2)


def document(booster: Any) -> Document:
    made: Document = json.loads(bytes(booster.save_raw("json")))
    return made


def trees(model: Document) -> list[Document]:
    found: list[Document] = model["learner"]["gradient_booster"]["model"]["trees"]
    return found


def put(*keys: str | int, value: object) -> Callable[[Document], None]:
    """Sets one entry of the third tree, or of the learner."""

    def change(model: Document) -> None:
        inner: Any = trees(model)[2] if keys[0] in trees(model)[2] else model["learner"]
        for key in keys[:-1]:
            inner = inner[key]
        inner[keys[-1]] = value

    return change


DAMAGE = {
    "orphans": (put("left_children", 0, value=-1), "no parent"),
    "child": (put("left_children", 0, value=1 << 20), "a child is outside"),
    "negative child": (put("right_children", 0, value=-7), "a child is outside"),
    "cycle": (put("left_children", 1, value=0), "no first node"),
    "two parents": (put("right_children", 0, value=1), "two parents"),
    "feature": (put("split_indices", 0, value=127), "a feature is outside"),
    "wrapped feature": (put("split_indices", 0, value=1 << 32), "a feature is outside"),
    "short column": (put("split_conditions", value=[0.5]), "different lengths"),
    "category": (put("categories_nodes", value=[0]), "shape"),
    "output": (put("gradient_booster", "model", "tree_info", value=[0, 1, 2, 0, 1, 9]), "output of a tree"),
    "trees": (put("gradient_booster", "model", "tree_info", value=[0, 1]), "shape"),
    "outputs": (put("learner_model_param", "num_class", value=str(1 << 31)), "outputs"),
    "features": (put("learner_model_param", "num_feature", value="-1"), "features"),
    "score": (put("learner_model_param", "base_score", value="NaN"), "base score"),
    "scores": (put("learner_model_param", "base_score", value="[1,2]"), "base score"),
    "classes": (put("objective", "softmax_multiclass_param", "num_class", value="9"), "classes"),
}  # fmt: skip


def refused(path: Path, message: str) -> None:
    with pytest.raises(ModelError, match=message) as caught:
        load_source(path, OPTIONS)
    assert len(str(caught.value).splitlines()) <= 2


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_damaged_forest_of_xgboost_is_refused(kind: str, tmp_path: Path) -> None:
    change, message = DAMAGE[kind]
    model, path = document(boosted()), tmp_path / "m.json"
    change(model)
    path.write_text(json.dumps(model))
    refused(path, message)


@pytest.mark.parametrize("score", ["0", "1", "-0.5", "1E400"])
def test_a_base_score_has_to_have_a_margin(score: str, tmp_path: Path) -> None:
    labels = {"objective": "binary:logistic", "num_class": 0, "base_score": 0.5}
    xgboost = pytest.importorskip("xgboost", reason="optional: pip install 'edgec[trees]'")
    data = xgboost.DMatrix(ROWS, ROWS[:, 0] > 0.5)
    model = document(xgboost.train(labels, data, 2))
    model["learner"]["learner_model_param"]["base_score"] = score
    path = tmp_path / "m.json"
    path.write_text(json.dumps(model))
    refused(path, "base score")


def test_the_library_gets_only_what_was_checked(tmp_path: Path) -> None:
    """What no prediction reads may be anything, and never reaches the library, which would crash on it."""
    booster = boosted(tree_method="exact", gamma=1.0, max_depth=4)
    model, path = document(booster), tmp_path / "m.json"
    assert any(int(tree["tree_param"]["num_deleted"]) for tree in trees(model))  # pruned nodes are left out
    for tree in trees(model):
        tree["parents"][-1], tree["sum_hessian"] = 1 << 20, []
        leaf = tree["left_children"].index(-1)
        tree["right_children"][leaf], tree["split_type"][0] = 1 << 20, 7
        tree["tree_param"]["num_nodes"] = "1000000"
    path.write_text(json.dumps(model))
    import xgboost

    original = load_source(path, OPTIONS).original
    assert original is not None
    expected = booster.predict(xgboost.DMatrix(ROWS))
    np.testing.assert_array_equal(original.run({"input": ROWS})["prediction"], expected)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("num_tree_per_iteration", "0", "declares 0 outputs"),
        ("num_tree_per_iteration", str((1 << 31) - 1), "outputs"),
        ("num_tree_per_iteration", "4", "no multiple"),
        ("max_feature_idx", str(1 << 62), "features"),
        ("split_feature", f"{1 << 32} 0 0", "no indices"),
    ],
)
def test_a_damaged_forest_of_lightgbm_is_refused(key: str, value: str, message: str, tmp_path: Path) -> None:
    lightgbm = pytest.importorskip("lightgbm", reason="optional: pip install 'edgec[trees]'")
    given = {"objective": "multiclass", "num_class": 3, "num_leaves": 4, "verbose": -1, "min_data_in_leaf": 2}
    labels = np.random.default_rng(1).integers(0, 3, 60)
    text = lightgbm.train(given, lightgbm.Dataset(ROWS, labels), 2).model_to_string()
    lines = [f"{key}={value}" if line.startswith(f"{key}=") else line for line in text.split("\n")]
    path = tmp_path / "m.txt"
    path.write_text("\n".join(lines))
    refused(path, message)
