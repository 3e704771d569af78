"""Tree ensembles of scikit-learn that skl2onnx cannot convert, or converts wrongly.

HistGradientBoosting is read from its predictors, missing values and categories included. In forests and trees,
skl2onnx drops the branch that missing values take; it is restored here.

Source: `_predict_one_from_raw_data` and `_apply_dense` of scikit-learn 1.9.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import ModelProto, TensorProto, helper, numpy_helper

from edgec.compiler.frontends.trees.model import OUTPUT, TreeModel, to_onnx
from edgec.compiler.kernels.forests.forest import Builder, ForestError, Mode, below

LINKS = {"IdentityLink": "identity", "LogLink": "exp", "LogitLink": "sigmoid", "MultinomialLogit": "softmax"}
FORESTS = ("TreeEnsembleRegressor", "TreeEnsembleClassifier")
LABEL, PROBABILITIES = "label", "probabilities"

# The fitted objects of scikit-learn have no static types.
Estimator = Any


def is_boosted_by_histogram(estimator: Estimator) -> bool:
    """Whether this is a HistGradientBoosting classifier or regressor."""
    return type(estimator).__name__ in ("HistGradientBoostingRegressor", "HistGradientBoostingClassifier")


def convert_boosted(estimator: Estimator) -> ModelProto:
    """A HistGradientBoosting estimator as ONNX: a prediction, or a label and probabilities.

    Raises:
        ForestError: a loss or categories that are not supported.
    """
    link = type(estimator._loss.link).__name__
    if link not in LINKS:
        raise ForestError(f"its loss has the link {link}, which is not compiled")
    columns, categories = _columns(estimator)
    targets = int(estimator.n_trees_per_iteration_)
    builder = Builder(int(estimator.n_features_in_), targets)
    for iteration in estimator._predictors:
        for target, tree in enumerate(iteration):
            _add_tree(builder, tree, target, columns, categories)
    offset = np.resize(np.asarray(estimator._baseline_prediction).reshape(-1), targets)
    classes = getattr(estimator, "classes_", None)
    model = to_onnx(TreeModel(builder.build(), LINKS[link], offset=offset.astype(np.float32), squeeze=False))
    return model if classes is None else _classified(model, np.asarray(classes), targets)


def _columns(estimator: Estimator) -> tuple[list[int], dict[int, npt.NDArray[np.generic]]]:
    """Which input each feature of the trees is, and the values of those that are categories."""
    width = int(estimator.n_features_in_)
    if estimator._preprocessor is None:
        return list(range(width)), {}
    order: list[int] = []
    categories: dict[int, npt.NDArray[np.generic]] = {}
    for name, transformer, chosen in estimator._preprocessor.transformers_:
        if name == "remainder":
            continue
        own = np.arange(width)[chosen].tolist()
        if name == "encoder":
            categories |= {len(order) + i: values for i, values in enumerate(transformer.categories_)}
        order += own
    return order, categories


def _add_tree(
    builder: Builder,
    tree: Estimator,
    target: int,
    columns: list[int],
    categories: dict[int, npt.NDArray[np.generic]],
) -> None:
    nodes = tree.nodes
    leaf = nodes["is_leaf"].astype(bool)
    chosen = nodes["is_categorical"].astype(bool) & ~leaf
    true, false = nodes["left"].astype(np.int64), nodes["right"].astype(np.int64)
    missing = nodes["missing_go_to_left"].astype(bool)
    members: dict[int, tuple[int, ...]] = {}
    for node in np.flatnonzero(chosen):
        values = categories[int(nodes["feature_idx"][node])]
        left = _members(tree.raw_left_cat_bitsets[nodes["bitset_idx"][node]], len(values))
        if missing[node]:  # unknown values go left like missing ones: test for the right side instead
            true[node], false[node], missing[node] = false[node], true[node], False
            left = ~left
        members[int(node)] = _numbers(values, left)
    mode = np.where(leaf, int(Mode.LEAF), np.where(chosen, int(Mode.MEMBER), int(Mode.LE)))
    builder.add_tree(
        mode=mode,
        feature=np.where(leaf, 0, np.asarray(columns)[nodes["feature_idx"] * ~leaf]),
        threshold=below(np.where(leaf | chosen, 0.0, nodes["num_threshold"])),
        true=np.where(leaf, 0, true),
        false=np.where(leaf, 0, false),
        missing_true=missing & ~leaf,
        leaf_node=np.flatnonzero(leaf),
        leaf_target=np.full(int(leaf.sum()), target),
        leaf_weight=nodes["value"][leaf],
        members=members,
    )


def _members(bits: npt.NDArray[np.uint32], count: int) -> npt.NDArray[np.bool_]:
    numbers = np.arange(count)
    return np.asarray((bits[numbers // 32] >> (numbers % 32).astype(np.uint32)) & 1, dtype=np.bool_)


def _numbers(values: npt.NDArray[np.generic], chosen: npt.NDArray[np.bool_]) -> tuple[int, ...]:
    if values.dtype.kind not in "fiu":
        raise ForestError("its categories are not numbers; encode them before the model")
    found = values[chosen].astype(np.float64)
    found = found[~np.isnan(found)]
    if (found != np.floor(found)).any():
        raise ForestError("its categories are not integers; encode them before the model")
    return tuple(int(value) for value in found)


def _classified(model: ModelProto, classes: npt.NDArray[np.generic], targets: int) -> ModelProto:
    """The model with a label (the class where that is a number, else its position) and probabilities."""
    graph = model.graph
    numbers = classes if classes.dtype.kind in "iub" else np.arange(len(classes))
    graph.initializer.append(numpy_helper.from_array(numbers.astype(np.int64), "classes"))
    if targets == 1:
        graph.initializer.append(numpy_helper.from_array(np.array(1, np.float32), "one"))
        graph.node.append(helper.make_node("Sub", ["one", OUTPUT], ["against"], name="against"))
        joined = helper.make_node("Concat", ["against", OUTPUT], [PROBABILITIES], name=PROBABILITIES, axis=1)
        graph.node.append(joined)
    else:
        graph.node.append(helper.make_node("Identity", [OUTPUT], [PROBABILITIES], name=PROBABILITIES))
    best = helper.make_node("ArgMax", [PROBABILITIES], ["best"], name="best", axis=1, keepdims=0)
    graph.node.extend([best, helper.make_node("Gather", ["classes", "best"], [LABEL], name=LABEL)])
    del graph.output[:]
    graph.output.append(helper.make_tensor_value_info(LABEL, TensorProto.INT64, ["batch"]))
    shape = ["batch", len(classes)]
    graph.output.append(helper.make_tensor_value_info(PROBABILITIES, TensorProto.FLOAT, shape))
    return model


def restore_missing(model: ModelProto, estimator: Estimator) -> None:
    """Restore, in the forests of a converted model (in place), the branch that missing values take.

    Raises:
        ForestError: the trees of the model cannot be matched, and some send missing values to the left.
    """
    forests = [node for node in model.graph.node if node.op_type in FORESTS]
    trees = list(_trees(estimator))
    sides = [np.asarray(tree.missing_go_to_left).astype(bool) for tree in trees]
    if not any(side.any() for side in sides):
        return
    attributes = {a.name: a for node in forests for a in node.attribute}
    marks = attributes.get("nodes_missing_value_tracks_true")
    numbers = attributes.get("nodes_treeids")
    known = [len(side) for side in sides]
    if len(forests) != 1 or marks is None or numbers is None or known != np.bincount(numbers.ints).tolist():
        raise ForestError(
            "it holds trees that send missing values to the left, which only a single forest may do"
        )
    del marks.ints[:]
    inner = [np.asarray(tree.children_left) >= 0 for tree in trees]
    marks.ints.extend(np.concatenate([s & i for s, i in zip(sides, inner, strict=True)]).astype(int).tolist())


def _trees(estimator: Estimator, depth: int = 0) -> Iterator[Any]:
    """The trees of an estimator, those of its steps and members included, in order."""
    if depth > 8:
        return
    if hasattr(estimator, "tree_"):
        yield estimator.tree_
        return
    steps = [step for _, step in getattr(estimator, "steps", [])]
    members = getattr(estimator, "estimators_", ())
    for inner in (*steps, *np.ravel(np.asarray(members, dtype=object))):
        if hasattr(inner, "get_params"):
            yield from _trees(inner, depth + 1)
