"""The model that the XGBoost library gets: what our reader took from the file and checked, and nothing else.

The library reads what it wrote itself and hardly checks it: an index out of range, or an array that is too short, ends
the process.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from edgec.compiler.frontends.trees.xgboost_tree import Tree, integers
from edgec.compiler.kernels.forests.forest import ForestError

_PARAMETER = re.compile(r"[\w.+\-\[\], ]{0,1000}", re.ASCII)


def for_library(
    document: Mapping[str, Any],
    trees: Sequence[Tree],
    info: npt.NDArray[np.int64],
    dropped: npt.NDArray[np.float32] | None,
    scores: Sequence[float],
) -> dict[str, Any]:
    """The document of XGBoost's JSON format.

    Args:
        document: of the file.
        trees: the checked trees.
        info: `[trees]`, the output that each serves.
        dropped: `[trees]`, the weights of DART.
        scores: the base scores.

    Raises:
        ForestError: the objective's parameters are damaged.
    """
    learner = document["learner"]
    given = learner["learner_model_param"]
    features = int(given["num_feature"])
    booster: dict[str, Any] = {
        "name": "gbtree",
        "model": {
            "gbtree_model_param": {"num_trees": str(len(trees)), "num_parallel_tree": "1"},
            "iteration_indptr": [0, len(trees)],  # one round of all trees: none is left out
            "tree_info": info.tolist(),
            "trees": [tree.document(number, features) for number, tree in enumerate(trees)],
            "cats": {
                "enc": [], "feature_segments": np.zeros(0, np.int32), "sorted_idx": np.zeros(0, np.int32),
            },
        },
    }  # fmt: skip
    if dropped is not None:
        booster = {"name": "dart", "gbtree": booster, "weight_drop": [float(w) for w in dropped]}
    written = ",".join(repr(score) for score in scores)
    parameters = {
        "base_score": f"[{written}]" if str(given["base_score"]).startswith("[") else written,
        "boost_from_average": "0" if str(given.get("boost_from_average", "1")) == "0" else "1",
        "num_class": str(int(given["num_class"])),
        "num_feature": str(features),
        "num_target": str(int(given.get("num_target", 1))),
    }
    return {
        "learner": {
            "attributes": {},
            "feature_names": [],
            "feature_types": [],
            "gradient_booster": booster,
            "learner_model_param": parameters,
            "objective": _objective(learner["objective"], int(given["num_class"])),
        },
        "version": integers(document["version"], 3, 0, 1000, "a part of its version").tolist(),
    }


def _objective(given: Mapping[str, Any], classes: int) -> dict[str, Any]:
    """The objective with its groups of parameters, which are texts."""
    found: dict[str, Any] = {"name": str(given["name"])}
    for name, group in given.items():
        if not isinstance(group, dict) or not _PARAMETER.fullmatch(name):
            continue
        for key, value in group.items():
            if not isinstance(value, str) or not _PARAMETER.fullmatch(key) or not _PARAMETER.fullmatch(value):
                raise ForestError(f"the parameter {key[:80]!r} of its objective is damaged")
        if "num_class" in group and int(group["num_class"]) != classes:
            raise ForestError(f"its objective has {group['num_class']} classes, but it declares {classes}")
        found[name] = dict(group)
    return found
