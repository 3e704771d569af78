"""Forests of decision trees: the one form that front ends produce and kernels are built from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int32]
Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]
MAX_NODES = 50_000_000  # 0.8 GB of tables; the largest published forests have about 10 million


class ForestError(ValueError):
    """The trees are inconsistent; the message says where."""


class Mode(IntEnum):
    """The test of a node on its feature; the numbers are those of ONNX's TreeEnsemble."""

    LE = 0
    LT = 1
    GE = 2
    GT = 3
    EQ = 4
    NE = 5
    MEMBER = 6
    LEAF = 7


class Aggregate(IntEnum):
    """How the leaves that the trees reach are combined into one value; the numbers are those of ONNX's TreeEnsemble."""

    AVERAGE = 0
    SUM = 1
    MIN = 2
    MAX = 3


@dataclass(frozen=True)
class Forest:
    """Binary decision trees over a row of fp32 features (or fp64 ones, for `ranks.ranked`: then thresholds, weights and
    base are fp64, too).

    At an inner node the walk goes to `true` when `feature MODE threshold` holds, else to `false`. A NaN
    goes to `true` where `missing_true` is set, else to `false` (with NE always to `true`: NaN equals
    nothing).

    Attributes:
        n_features, n_targets: widths of the input and the output row.
        roots: `[trees]`, index of each tree's first node.
        mode: `[nodes]` of `Mode`, uint8.
        feature, true, false: `[nodes]` int32; the children are indices of nodes. Unused in leaves.
        threshold: `[nodes]` fp32. Thresholds that were fp64 are rounded so that every fp32 feature compares
            with them as with the original.
        missing_true: `[nodes]` bool.
        members: for each node of mode MEMBER the set of values that it tests; the kernel takes whole numbers
            from 0, `ranks.ranked` any.
        leaf_node, leaf_target, leaf_weight: `[entries]`; each entry adds its weight to a target when the
            walk ends in that node.
        base: `[n_targets]` fp32, added to the aggregate.
        aggregate: how trees combine.
    """

    n_features: int
    n_targets: int
    roots: Ints
    mode: npt.NDArray[np.uint8]
    feature: Ints
    threshold: Floats | Doubles
    true: Ints
    false: Ints
    missing_true: npt.NDArray[np.bool_]
    leaf_node: Ints
    leaf_target: Ints
    leaf_weight: Floats | Doubles
    base: Floats | Doubles
    members: Mapping[int, tuple[float, ...]] = field(default_factory=dict)
    aggregate: Aggregate = Aggregate.SUM

    @property
    def n_nodes(self) -> int:
        """Nodes of all trees, leaves included."""
        return len(self.mode)

    def check(self) -> None:
        """Check that the arrays describe trees.

        Raises:
            ForestError: unequal lengths, an index out of range, or a node with two parents (or none).
        """
        nodes = self.n_nodes
        if nodes > MAX_NODES:
            raise ForestError(f"the forest has {nodes} nodes; the limit is {MAX_NODES}")
        columns = (self.feature, self.threshold, self.true, self.false, self.missing_true)
        if any(len(column) != nodes for column in columns):
            raise ForestError("its columns of nodes have different lengths")
        if not len(self.leaf_node) == len(self.leaf_target) == len(self.leaf_weight):
            raise ForestError("its columns of leaves have different lengths")
        inner = self.mode != Mode.LEAF
        if (self.mode > Mode.LEAF).any():
            raise ForestError(f"a node has the unknown mode {int(self.mode.max())}")
        _in_range(self.roots, nodes, "a tree's root")
        _in_range(self.true[inner], nodes, "a child")
        _in_range(self.false[inner], nodes, "a child")
        _in_range(self.feature[inner], self.n_features, "a feature")
        _in_range(self.leaf_node, nodes, "a leaf")
        _in_range(self.leaf_target, self.n_targets, "a target")
        if len(self.base) != self.n_targets:
            raise ForestError(f"there are {len(self.base)} base values for {self.n_targets} targets")
        if inner[self.leaf_node].any():
            raise ForestError("a weight belongs to a node that is not a leaf")
        parents = np.bincount(
            np.concatenate([self.true[inner], self.false[inner], self.roots]), minlength=nodes
        )
        if (parents > 1).any():
            raise ForestError(f"node {int(np.argmax(parents > 1))} has two parents, so this is not a tree")
        self.depths()

    def depths(self) -> Ints:
        """The number of steps from root to deepest leaf, per tree.

        Raises:
            ForestError: the nodes form a cycle.
        """
        deepest = np.zeros(len(self.roots), np.int32)
        tree = np.arange(len(self.roots), dtype=np.int32)
        front = self.roots
        for _ in range(self.n_nodes):
            inner = self.mode[front] != Mode.LEAF
            front, tree = front[inner], tree[inner]
            if not len(front):
                return deepest
            np.add.at(deepest, np.unique(tree), 1)
            front = np.concatenate([self.true[front], self.false[front]])
            tree = np.concatenate([tree, tree])
        raise ForestError("its nodes form a circle")

    def tree_of_nodes(self) -> Ints:
        """`[nodes]`: the number of the tree that each node belongs to; 0 for nodes that no tree reaches."""
        tree = np.zeros(self.n_nodes, np.int32)
        front, number = self.roots, np.arange(len(self.roots), dtype=np.int32)
        while len(front):
            tree[front] = number
            inner = self.mode[front] != Mode.LEAF
            front, number = front[inner], np.concatenate([number[inner], number[inner]])
            front = np.concatenate([self.true[front], self.false[front]])
        return tree

    @property
    def categorical(self) -> bool:
        """Whether all sets are of category numbers: whole ones from 0."""
        return all(value >= 0 and value == int(value) for values in self.members.values() for value in values)

    def used(self) -> Ints:
        """The features that some node tests, ascending."""
        return np.unique(self.feature[self.mode != Mode.LEAF]).astype(np.int32)


def _in_range(values: npt.NDArray[np.generic], end: int, what: str) -> None:
    if len(values) and (values.min() < 0 or values.max() >= end):
        raise ForestError(f"{what} is outside 0 … {end - 1}")


def below(thresholds: npt.NDArray[np.float64]) -> Floats:
    """The largest fp32 not above each threshold: `x <= t` is the same with either, for every fp32 `x`."""
    with np.errstate(over="ignore"):
        rounded = thresholds.astype(np.float32)
    high = rounded.astype(np.float64) > thresholds
    rounded[high] = np.nextafter(rounded[high], np.float32(-np.inf))
    return rounded


def above(thresholds: npt.NDArray[np.float64]) -> Floats:
    """The smallest fp32 not below each threshold: `x < t` is the same with either, for every fp32 `x`."""
    return -below(-thresholds)


class Builder:
    """Collects nodes tree by tree."""

    def __init__(self, n_features: int, n_targets: int) -> None:
        self.n_features, self.n_targets = n_features, n_targets
        self.roots: list[int] = []
        self.size = 0
        self.members: dict[int, tuple[int, ...]] = {}
        self._parts: dict[str, list[npt.NDArray[np.generic]]] = {}

    def add_tree(
        self,
        *,
        mode: npt.ArrayLike,
        feature: npt.ArrayLike,
        threshold: npt.ArrayLike,
        true: npt.ArrayLike,
        false: npt.ArrayLike,
        missing_true: npt.ArrayLike,
        leaf_node: npt.ArrayLike,
        leaf_target: npt.ArrayLike,
        leaf_weight: npt.ArrayLike,
        members: Mapping[int, Sequence[int]] | None = None,
    ) -> None:
        """Add a tree whose nodes are numbered from 0 (the root)."""
        start = self.size
        self.roots.append(start)
        modes = self._add("mode", mode, np.uint8)
        self._add("feature", feature, np.int32)
        self._add("threshold", threshold, np.float32)
        self._add("true", np.asarray(true, np.int64) + start, np.int32)
        self._add("false", np.asarray(false, np.int64) + start, np.int32)
        self._add("missing_true", missing_true, np.bool_)
        self._add("leaf_node", np.asarray(leaf_node, np.int64) + start, np.int32)
        self._add("leaf_target", leaf_target, np.int32)
        self._add("leaf_weight", leaf_weight, np.float32)
        for node, values in (members or {}).items():
            self.members[start + node] = tuple(values)
        self.size += len(modes)

    def _add(self, name: str, values: npt.ArrayLike, dtype: type[np.generic]) -> npt.NDArray[np.generic]:
        given = np.asarray(values).reshape(-1)
        if issubclass(dtype, np.integer) and len(given):
            limits = np.iinfo(dtype)
            if not (given.min() >= limits.min and given.max() <= limits.max):  # not: NaN is in no range
                raise ForestError(f"its column {name!r} holds numbers that are no indices")
        array = given.astype(dtype)
        self._parts.setdefault(name, []).append(array)
        return array

    def build(self, base: npt.ArrayLike = 0.0, aggregate: Aggregate = Aggregate.SUM) -> Forest:
        """The forest, checked.

        Raises:
            ForestError: there are no trees, or they are inconsistent.
        """
        if not self.roots:
            raise ForestError("it contains no trees")
        columns = {name: np.concatenate(parts) for name, parts in self._parts.items()}
        forest = Forest(
            self.n_features,
            self.n_targets,
            np.array(self.roots, np.int32),
            columns["mode"].astype(np.uint8),
            columns["feature"].astype(np.int32),
            columns["threshold"].astype(np.float32),
            columns["true"].astype(np.int32),
            columns["false"].astype(np.int32),
            columns["missing_true"].astype(np.bool_),
            columns["leaf_node"].astype(np.int32),
            columns["leaf_target"].astype(np.int32),
            columns["leaf_weight"].astype(np.float32),
            np.broadcast_to(np.asarray(base, np.float32), (self.n_targets,)).copy(),
            self.members,
            aggregate,
        )
        forest.check()
        return forest
