"""Forests that test fp64 features, by the kernel for fp32 ones: ranks among all thresholds replace the features.

A test asks no more of a feature than where it lies among the numbers that it is compared with. With all thresholds
of the forest in ascending order, the rank of `x` is the number of them below `x` plus the number of them not above
it: odd for a threshold itself, even between two, ascending with `x`, and exact in fp32 up to 2^24. The kernel
returns the number of the leaf that each tree reaches, and the leaves' weights are combined in fp64.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from edgec.compiler.kernels.forests.forest import Aggregate, Doubles, Forest, ForestError, Mode

EXACT = 2**24  # whole numbers up to here are exact in fp32
MAX_WEIGHTS = 1 << 27  # entries of the table of leaves by targets: 1 GB


@dataclass(frozen=True)
class Ranked:
    """A forest of ranks.

    Attributes:
        forest: takes ranks; its targets are the trees of the original one, and its leaves add their number.
        thresholds: ascending and distinct, fp64.
        weights: `[leaves, targets]` fp64, what each leaf adds; the neutral element where it adds nothing.
    """

    forest: Forest
    thresholds: Doubles
    weights: Doubles


def ranked(forest: Forest) -> Ranked:
    """The forest whose features are ranks.

    Args:
        forest: with thresholds and weights in fp64.

    Raises:
        ForestError: more thresholds or leaves than fp32 can number, or a table of leaves that is too large.
    """
    inner = forest.mode != Mode.LEAF
    asked = forest.threshold[inner & (forest.mode != Mode.MEMBER)]
    members = [value for values in forest.members.values() for value in values]
    thresholds = np.unique(np.concatenate([asked, members]).astype(np.float64))
    thresholds = thresholds[~np.isnan(thresholds)]
    leaves = np.flatnonzero(~inner)
    if 2 * len(thresholds) + 1 > EXACT or len(leaves) > EXACT:
        raise ForestError("it has more thresholds or leaves than can be numbered in fp32")
    if len(leaves) * forest.n_targets > MAX_WEIGHTS:
        raise ForestError(
            f"its {len(leaves)} leaves with {forest.n_targets} targets are too many for a table"
        )
    number = np.zeros(forest.n_nodes, np.int64)
    number[leaves] = np.arange(len(leaves))
    ranks = rank(forest.threshold, thresholds)
    return Ranked(
        replace(
            forest,
            n_targets=len(forest.roots),
            threshold=np.where(np.isnan(forest.threshold), np.nan, ranks).astype(np.float32),
            leaf_node=leaves.astype(np.int32),
            leaf_target=forest.tree_of_nodes()[leaves],
            leaf_weight=np.arange(len(leaves)).astype(np.float32),
            base=np.zeros(len(forest.roots), np.float32),
            members={
                node: tuple(int(r) for r in rank(np.array(values, np.float64), thresholds))
                for node, values in forest.members.items()
            },
            aggregate=Aggregate.SUM,
        ),
        thresholds,
        _weights(forest, number, len(leaves)),
    )


def rank(values: npt.NDArray[np.floating], thresholds: Doubles) -> npt.NDArray[np.int64]:
    """The ranks of values among the thresholds."""
    below = np.searchsorted(thresholds, values, side="left")
    return np.asarray(below + np.searchsorted(thresholds, values, side="right"), np.int64)


def _weights(forest: Forest, number: npt.NDArray[np.int64], leaves: int) -> Doubles:
    low, high = forest.aggregate is Aggregate.MIN, forest.aggregate is Aggregate.MAX
    neutral = np.inf if low else -np.inf if high else 0.0
    weights = np.full((leaves, forest.n_targets), neutral, np.float64)
    combine = np.minimum if low else np.maximum if high else np.add
    combine.at(weights, (number[forest.leaf_node], forest.leaf_target), forest.leaf_weight.astype(np.float64))
    return weights
