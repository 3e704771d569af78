"""XGBoost models: JSON, UBJSON, and the binary format of versions before 3.1."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from edgec.compiler.frontends.trees.model import TreeModel, check_widths
from edgec.compiler.frontends.trees.xgboost_binary import read_binary
from edgec.compiler.frontends.trees.xgboost_library import for_library
from edgec.compiler.frontends.trees.xgboost_tree import integers, read_tree
from edgec.compiler.kernels.forests.forest import Builder, ForestError

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
    classes, features = int(parameters["num_class"]), int(parameters["num_feature"])
    groups = max(classes, int(parameters.get("num_target", 1)), 1)
    if classes < 0:
        raise ForestError(f"it declares {classes} classes")
    check_widths(features, groups, len(booster["model"]["trees"]))
    trees = [read_tree(tree, features) for tree in booster["model"]["trees"]]
    info = integers(booster["model"]["tree_info"], len(trees), 0, groups, "the output of a tree")
    if dropped is not None and dropped.shape != (len(trees),):
        raise ForestError(f"it has {dropped.size} weights for {len(trees)} trees")
    builder = Builder(features, groups)
    for number, (tree, group) in enumerate(zip(trees, info.tolist(), strict=True)):
        tree.add_to(builder, group, np.float32(1.0) if dropped is None else dropped[number])
    scores = _scores(str(parameters["base_score"]), groups)
    base = _margins(scores, document.get("edgec_margin", False), link)
    forest = builder.build()
    written = None if "edgec_margin" in document else for_library(document, trees, info, dropped, scores)
    return TreeModel(
        forest,
        transform,
        offset=np.broadcast_to(np.array(base, np.float32), (groups,)).copy(),
        squeeze=groups == 1 or transform == "argmax",
        categories=tuple(sorted({int(f) for tree in trees for f in tree.feature[tree.chosen()]})),
        for_library=written,
    )


def _scores(text: str, groups: int) -> list[float]:
    """The base scores: one, or one per output."""
    values = [float(value) for value in json.loads(text if text.startswith("[") else f"[{text}]")]
    if len(values) not in (1, groups) or not np.isfinite(np.array(values, np.float32)).all():
        raise ForestError(f"its base score {text[:80]!r} is not a number for each of its {groups} outputs")
    return values


def _margins(scores: Sequence[float], is_margin: bool, link: str) -> list[float]:
    if is_margin or link == "identity":
        return list(scores)
    if not all(0 < value < (math.inf if link == "log" else 1) for value in scores):
        raise ForestError(f"its base score {scores[0]:g} is outside what its objective allows")
    if link == "log":
        return [math.log(value) for value in scores]
    return [-math.log(1.0 / value - 1.0) for value in scores]
