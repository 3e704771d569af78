"""LightGBM's text models, versions 2 to 4."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import numpy.typing as npt

from edgec.compiler.frontends.trees.model import TreeModel, check_widths
from edgec.compiler.kernels.forests.forest import Aggregate, Builder, ForestError, Mode, below

IDENTITY = (
    "regression", "regression_l1", "huber", "fair", "quantile", "mape", "lambdarank", "rank_xendcg",
    "custom", "none",
)  # fmt: skip
TRANSFORMS = {
    "binary": "sigmoid",
    "cross_entropy": "sigmoid",
    "xentropy": "sigmoid",
    "multiclass": "softmax",
    "softmax": "softmax",
    "multiclassova": "sigmoid",
    "multiclass_ova": "sigmoid",
    "ova": "sigmoid",
    "ovr": "sigmoid",
    "poisson": "exp",
    "gamma": "exp",
    "tweedie": "exp",
    "cross_entropy_lambda": "softplus",
    "xentlambda": "softplus",
    **dict.fromkeys(IDENTITY, "identity"),
}
CATEGORICAL, DEFAULT_LEFT = 1, 2
MISSING_NONE, MISSING_ZERO, MISSING_NAN = 0, 1, 2


def read_lightgbm(content: bytes) -> TreeModel:
    """A model from the text of its file.

    Raises:
        ForestError: damaged, or of a kind that is not compiled.
    """
    try:
        return _read(content.decode("utf-8", "replace"))
    except (KeyError, ValueError, IndexError, TypeError, OverflowError) as error:
        if isinstance(error, ForestError):
            raise
        raise ForestError(f"its description of the model is incomplete or damaged ({error!r})") from error


def _sections(text: str) -> Iterator[dict[str, str]]:
    """The header and each tree, as keys and values."""
    section: dict[str, str] = {}
    for line in text.splitlines():
        if line.startswith("Tree="):
            yield section
            section = {}
        elif line.startswith("end of trees"):
            break
        key, _, value = line.partition("=")
        section[key] = value
    yield section


def _read(text: str) -> TreeModel:
    header, *trees = _sections(text)
    if "tree" not in header or "max_feature_idx" not in header:
        raise ForestError("it is no LightGBM model")
    features = int(header["max_feature_idx"]) + 1
    targets = int(header.get("num_tree_per_iteration", header.get("num_class", "1")))
    check_widths(features, targets, len(trees))
    if len(trees) % targets:
        raise ForestError(
            f"it has {len(trees)} trees, which is no multiple of its {targets} outputs: it is cut short"
        )
    builder = Builder(features, targets)
    zero_missing: set[int] = set()
    categories: set[int] = set()
    parsed = [_Tree(tree) for tree in trees]
    for tree in parsed:
        zero_missing |= tree.zero_missing()
    for number, tree in enumerate(parsed):
        categories |= tree.add(builder, number % targets, zero_missing)
    transform, scale = _objective(header.get("objective", "custom"))
    rounds = max(len(parsed) // targets, 1)
    averaged = "average_output" in header
    model = TreeModel(
        builder.build(aggregate=Aggregate.SUM),
        transform,
        scale=scale / rounds if averaged else scale,
        squeeze=targets == 1,
        zero_missing=tuple(sorted(zero_missing)),
        categories=tuple(sorted(categories)),
        towards_zero=True,
    )
    return model


def _objective(text: str) -> tuple[str, float]:
    name, *parameters = text.split()
    if name not in TRANSFORMS:
        raise ForestError(f"its objective {name!r} is not supported, so its prediction cannot be computed")
    given = dict(p.split(":", 1) for p in parameters if ":" in p)
    if "sqrt" in parameters:
        return "signed_square", 1.0
    return TRANSFORMS[name], float(given.get("sigmoid", 1.0)) if TRANSFORMS[name] == "sigmoid" else 1.0


class _Tree:
    """One tree's arrays: inner nodes count from 0, leaves are given as `~leaf`."""

    def __init__(self, section: Mapping[str, str]) -> None:
        if int(section.get("is_linear", "0")):
            raise ForestError("its leaves hold linear models (linear_tree=true), which are not compiled")
        self.leaves = int(section["num_leaves"])
        inner = self.leaves - 1
        self.value = _numbers(section, "leaf_value", self.leaves)
        self.feature = _numbers(section, "split_feature", inner).astype(np.int64)
        self.threshold = _numbers(section, "threshold", inner)
        kinds = _numbers(section, "decision_type", inner).astype(np.int64)
        self.categorical = (kinds & CATEGORICAL) != 0
        self.default_left = (kinds & DEFAULT_LEFT) != 0
        self.missing = (kinds >> 2) & 3
        self.left = _numbers(section, "left_child", inner).astype(np.int64)
        self.right = _numbers(section, "right_child", inner).astype(np.int64)
        sets = int(section.get("num_cat", "0"))
        self.bounds = _numbers(section, "cat_boundaries", sets + 1).astype(np.int64) if sets else None
        self.bits = np.array(section["cat_threshold"].split(), np.uint32) if sets else np.zeros(0, np.uint32)

    def zero_missing(self) -> set[int]:
        """Features whose zeros must become NaN, because some node routes them against their order."""
        odd = (
            (self.missing == MISSING_ZERO) & ~self.categorical & (self.default_left != (self.threshold >= 0))
        )
        return {int(f) for f in self.feature[odd]}

    def add(self, builder: Builder, target: int, zero_missing: set[int]) -> set[int]:
        """Add the tree; returns the features that it treats as categories."""
        inner = self.leaves - 1
        leaf = np.full(self.leaves, Mode.LEAF)
        # An unexpected NaN counts as zero, which the threshold decides on.
        as_zero = self.threshold >= 0
        asked = np.isin(self.feature, list(zero_missing)) | (self.missing == MISSING_NAN)
        missing_left = np.where(asked & (self.missing != MISSING_NONE), self.default_left, as_zero)
        missing_left &= ~self.categorical
        filler = np.zeros(self.leaves)
        builder.add_tree(
            mode=np.concatenate([np.where(self.categorical, Mode.MEMBER, Mode.LE), leaf]),
            feature=np.concatenate([self.feature, filler]),
            threshold=np.concatenate([below(np.where(self.categorical, 0, self.threshold)), filler]),
            true=np.concatenate([self._place(self.left), filler]),
            false=np.concatenate([self._place(self.right), filler]),
            missing_true=np.concatenate([missing_left, filler]),
            leaf_node=np.arange(self.leaves) + inner,
            leaf_target=np.full(self.leaves, target),
            leaf_weight=self.value,
            members={int(node): self._members(int(node)) for node in np.flatnonzero(self.categorical)},
        )
        return {int(f) for f in self.feature[self.categorical]}

    def _place(self, children: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        return np.where(children < 0, ~children + self.leaves - 1, children)

    def _members(self, node: int) -> tuple[int, ...]:
        if self.bounds is None:
            raise ForestError("a node tests categories, but the file has no category sets")
        chosen = int(self.threshold[node])
        words = self.bits[self.bounds[chosen] : self.bounds[chosen + 1]]
        set_bits = (words[:, None] >> np.arange(32, dtype=np.uint32)) & 1
        return tuple(int(i) for i in np.flatnonzero(set_bits.reshape(-1)))


def _numbers(section: Mapping[str, str], key: str, count: int) -> npt.NDArray[np.float64]:
    values = np.array(section.get(key, "").split(), np.float64) if count else np.zeros(0)
    if len(values) != count:
        raise ForestError(f"{key} has {len(values)} entries where {count} are needed")
    return values
