"""XGBoost models: JSON, UBJSON, and the binary format of versions before 3.1."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from edgec.compiler.frontends.trees.model import TreeModel
from edgec.compiler.frontends.trees.xgboost_binary import read_binary
from edgec.compiler.kernels.forests.forest import Builder, Forest, ForestError, Mode

# objective → (transform of the margin, link from a base score to a margin)
OBJECTIVES = {
    "reg:squarederror": ("identity", "identity"),
    "reg:linear": ("identity", "identity"),
    "reg:squaredlogerror": ("identity", "identity"),
    "reg:pseudohubererror": ("identity", "identity"),
    "reg:absoluteerror": ("identity", "identity"),
    "reg:quantileerror": ("identity", "identity"),
    "reg:expectileerror": ("identity", "identity"),
    "reg:logistic": ("sigmoid", "logit"),
    "binary:logistic": ("sigmoid", "logit"),
    "binary:logitraw": ("identity", "identity"),
    "binary:hinge": ("step", "identity"),
    "count:poisson": ("exp", "log"),
    "reg:gamma": ("exp", "log"),
    "reg:tweedie": ("exp", "log"),
    "survival:cox": ("exp", "log"),
    "survival:aft": ("exp", "log"),
    "multi:softmax": ("argmax", "identity"),
    "multi:softprob": ("softmax", "identity"),
    "rank:pairwise": ("identity", "identity"),
    "rank:ndcg": ("identity", "identity"),
    "rank:map": ("identity", "identity"),
}


def read_xgboost(content: bytes) -> TreeModel:
    """A model from the content of its file, in any of XGBoost's formats.

    Raises:
        ForestError: damaged, or of a kind that has no trees with single values in their leaves.
    """
    document = parse(content)
    try:
        return _from_document(document)
    except (KeyError, TypeError, IndexError, ValueError, AttributeError, OverflowError) as error:
        if isinstance(error, ForestError):
            raise
        raise ForestError(f"its description of the model is incomplete or damaged ({error!r})") from error


def parse(content: bytes) -> Mapping[str, Any]:
    """The file as the document that XGBoost's JSON format describes.

    Raises:
        ForestError: damaged.
    """
    if content[:1] == b"{" and content[1:2] not in (b"L", b"l", b"i", b"I", b"U", b"u"):
        try:
            document: Mapping[str, Any] = json.loads(content)
        except (ValueError, RecursionError) as error:
            raise ForestError(f"it is not valid JSON ({error})") from error
        return document
    if content[:1] == b"{":
        from edgec.compiler.frontends.trees.ubjson import UbjsonError, decode

        try:
            decoded = decode(content)
        except UbjsonError as error:
            raise ForestError(f"it is not valid UBJSON ({error})") from error
        if not isinstance(decoded, dict):
            raise ForestError("it is not an XGBoost model")
        return decoded
    return read_binary(content)


def _from_document(document: Mapping[str, Any]) -> TreeModel:
    learner = document["learner"]
    booster, dropped = learner["gradient_booster"], None
    if booster["name"] == "dart":
        dropped = np.array(booster["weight_drop"], np.float32)
        booster = booster["gbtree"]
    elif booster["name"] != "gbtree":
        raise ForestError(f"it is a {booster['name']} model, which has no trees; export it to ONNX instead")
    parameters = learner["learner_model_param"]
    objective = str(learner["objective"]["name"])
    if objective not in OBJECTIVES:
        raise ForestError(
            f"its objective {objective!r} is not supported, so its prediction cannot be computed"
        )
    transform, link = OBJECTIVES[objective]
    groups = max(int(parameters["num_class"]), int(parameters.get("num_target", 1)), 1)
    features = int(parameters["num_feature"])
    builder = Builder(features, groups)
    model = booster["model"]
    categories: set[int] = set()
    for number, tree in enumerate(model["trees"]):
        weight = float(dropped[number]) if dropped is not None else 1.0
        categories |= _add_tree(builder, tree, int(model["tree_info"][number]), np.float32(weight))
    base = _margins(str(parameters["base_score"]), document.get("edgec_margin", False), link)
    forest = builder.build()
    return TreeModel(
        _with_targets(forest, groups),
        transform,
        offset=np.broadcast_to(np.array(base, np.float32), (groups,)).copy(),
        squeeze=groups == 1 or transform == "argmax",
        categories=tuple(sorted(categories)),
    )


def _with_targets(forest: Forest, groups: int) -> Forest:
    if groups != forest.n_targets:
        raise ForestError(f"its trees serve {forest.n_targets} outputs, but it declares {groups}")
    return forest


def _margins(text: str, is_margin: bool, link: str) -> list[float]:
    values = json.loads(text if text.startswith("[") else f"[{text}]")
    numbers = [float(value) for value in values]
    if is_margin or link == "identity":
        return numbers
    if link == "log":
        return [math.log(value) for value in numbers]
    return [-math.log(1.0 / value - 1.0) for value in numbers]


def _add_tree(builder: Builder, tree: Mapping[str, Any], group: int, weight: np.float32) -> set[int]:
    if int(tree["tree_param"].get("size_leaf_vector", 1)) > 1:
        raise ForestError(
            "its trees have vectors in their leaves; train it with multi_strategy='one_output_per_tree'"
        )
    left, right = np.asarray(tree["left_children"]), np.asarray(tree["right_children"])
    leaf = left == -1
    conditions = np.asarray(tree["split_conditions"], np.float32)
    features = np.asarray(tree["split_indices"])
    default_left = np.asarray(tree["default_left"]).astype(bool)
    members = _members(tree)
    chosen = np.zeros(len(leaf), bool)
    chosen[list(members)] = True
    chosen &= ~leaf
    leaves = np.flatnonzero(leaf)
    builder.add_tree(
        mode=np.where(leaf, Mode.LEAF, np.where(chosen, Mode.MEMBER, Mode.LT)),
        feature=np.where(leaf, 0, features),
        threshold=np.where(leaf | chosen, 0, conditions),
        # categories in the set go right; numbers below the threshold go left
        true=np.where(leaf, 0, np.where(chosen, right, left)),
        false=np.where(leaf, 0, np.where(chosen, left, right)),
        missing_true=np.where(leaf, False, default_left ^ chosen),
        leaf_node=leaves,
        leaf_target=np.full(len(leaves), group),
        leaf_weight=conditions[leaves] * weight,
        members={node: values for node, values in members.items() if chosen[node]},
    )
    return {int(f) for f in features[chosen]}


def _members(tree: Mapping[str, Any]) -> dict[int, Sequence[int]]:
    nodes = tree.get("categories_nodes", [])
    found: dict[int, Sequence[int]] = {}
    for node, start, size in zip(
        nodes, tree.get("categories_segments", []), tree.get("categories_sizes", []), strict=True
    ):
        found[int(node)] = [int(c) for c in tree["categories"][int(start) : int(start) + int(size)]]
    return found
