"""Lay a forest out for the kernel: every node makes the same kind of test, and children are adjacent.

Every test of a node becomes `column < threshold`, which a NaN fails, so that one step of a walk is
three loads, one comparison and one addition, without a branch:

- `x <= t` is `x < next(t)`; `x >= t` and `x > t` ask about a second column that holds `-x`;
- a node that sends missing values to its true side asks the opposite question with its children swapped;
- what no single comparison answers (equality, membership in a set) gets a column of its own that holds -1 for
  yes, 1 for no and NaN for missing. Equal questions of different nodes share one.

The false child of a node is `child`, the true one `child + 1`; a leaf has itself as false child and asks
for `x < -inf`, so that walks that reach a leaf early stay there.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from edgec.compiler.kernels.forests.forest import Aggregate, Floats, Forest, Ints, Mode
from edgec.compiler.kernels.forests.questions import Intervals, Membership, Questions, unify

LANES = 8  # walks that run side by side; measured on Zen 5: 8 is as fast as 12 or 16, 4 is 1.5 times slower


@dataclass(frozen=True)
class Table:
    """A forest in the kernel's layout.

    Attributes:
        columns: the number of columns that a row is widened to.
        negated: the columns `n_features … 2 n_features` hold `-x`.
        feature, threshold, child: `[nodes]`; `feature` is a column.
        value: `[nodes]` fp32, what a leaf adds; with `rows`, unused.
        leaf_row, rows: `[nodes]` and `[leaves, targets]`, for forests with leaves of several targets.
        roots: `[groups × lanes]`.
        depth, target: `[groups]`, steps of a group's deepest walk, and the target it adds to (-1 with
            `rows`).
        trees: how many trees there are, without the empty ones that fill the last groups.
    """

    n_features: int
    n_targets: int
    columns: int
    negated: bool
    intervals: Intervals
    memberships: tuple[Membership, ...]
    feature: Ints
    threshold: Floats
    child: Ints
    value: Floats
    leaf_row: Ints
    rows: Floats | None
    roots: Ints
    depth: Ints
    target: Ints
    base: Floats
    aggregate: Aggregate
    lanes: int
    trees: int

    @property
    def steps(self) -> int:
        """Steps that one row of features takes through the whole forest."""
        return int(self.depth.sum()) * self.lanes


def lay_out(forest: Forest, lanes: int = LANES) -> Table:
    """Lay a forest out for the kernel.

    Raises:
        ForestError: a set of categories that is too large for a table.
    """
    lanes = min(lanes, len(forest.roots))
    questions = unify(forest)
    order, place = _depth_first(forest, questions)
    leaf = forest.mode[order] == Mode.LEAF
    child = np.where(leaf, np.arange(len(order)), place[questions.no[order]])
    targets = _tree_targets(forest)
    value, rows, leaf_row = _leaves(forest, order, vectors=bool((targets < 0).any()))
    roots, depth, target = _group(forest, place[forest.roots], targets, lanes, len(order))
    # the last entry of every column is an empty tree, which fills up the last groups
    return Table(
        forest.n_features,
        forest.n_targets,
        questions.columns,
        questions.negated,
        questions.intervals,
        questions.memberships,
        np.append(np.where(leaf, 0, questions.column[order]), 0).astype(np.int32),
        np.append(np.where(leaf, -np.inf, questions.threshold[order]), -np.inf).astype(np.float32),
        np.append(child, len(order)).astype(np.int32),
        value,
        leaf_row,
        rows,
        roots,
        depth,
        target,
        forest.base.astype(np.float32),
        forest.aggregate,
        lanes,
        len(forest.roots),
    )


def _depth_first(forest: Forest, questions: Questions) -> tuple[Ints, Ints]:
    """The order of nodes in the table, and each node's place in it (-1 for nodes that no tree reaches)."""
    leaf = (forest.mode == Mode.LEAF).tolist()
    yes, no = questions.yes.tolist(), questions.no.tolist()
    order: list[int] = []
    for root in forest.roots.tolist():
        order.append(root)
        stack = [root]
        while stack:
            node = stack.pop()
            if not leaf[node]:
                order.append(no[node])
                order.append(yes[node])
                stack.append(yes[node])
                stack.append(no[node])
    place = np.full(forest.n_nodes, -1, np.int32)
    place[order] = np.arange(len(order), dtype=np.int32)
    return np.array(order, np.int32), place


def _tree_targets(forest: Forest) -> Ints:
    """The one target that a tree's leaves add to, or -1 where they differ; 0 for a tree without weights."""
    tree = forest.tree_of_nodes()
    low = np.full(len(forest.roots), forest.n_targets, np.int32)
    high = np.full(len(forest.roots), -1, np.int32)
    np.minimum.at(low, tree[forest.leaf_node], forest.leaf_target)
    np.maximum.at(high, tree[forest.leaf_node], forest.leaf_target)
    entries = np.bincount(forest.leaf_node, minlength=forest.n_nodes)
    several = np.zeros(len(forest.roots), bool)
    several[tree[entries > 1]] = True
    return np.where(high < 0, 0, np.where((low == high) & ~several, low, -1)).astype(np.int32)


def _leaves(forest: Forest, order: Ints, *, vectors: bool) -> tuple[Floats, Floats | None, Ints]:
    """The leaves' values by place, or their rows of values and each place's row."""
    if not vectors:
        value = np.zeros(forest.n_nodes, np.float32)
        value[forest.leaf_node] = forest.leaf_weight
        return np.append(value[order], np.float32(0)), None, np.zeros(0, np.int32)
    leaf = forest.mode == Mode.LEAF
    number = np.cumsum(leaf) - 1
    rows = np.zeros((int(leaf.sum()) + 1, forest.n_targets), np.float32)
    np.add.at(rows, (number[forest.leaf_node], forest.leaf_target), forest.leaf_weight)
    leaf_row = np.where(leaf[order], number[order], 0)
    return np.zeros(0, np.float32), rows, np.append(leaf_row, len(rows) - 1).astype(np.int32)


def _group(forest: Forest, roots: Ints, targets: Ints, lanes: int, empty: int) -> tuple[Ints, Ints, Ints]:
    """Put trees of one target and of similar depth side by side."""
    depths = forest.depths()
    vectors = bool((targets < 0).any())
    keys = np.zeros_like(targets) if vectors else targets
    # MIN and MAX must not see an empty tree: a group is filled up with its own last tree.
    neutral = forest.aggregate in (Aggregate.SUM, Aggregate.AVERAGE)
    grouped: list[int] = []
    depth, target = [], []
    for key in np.unique(keys):
        trees = np.flatnonzero(keys == key)
        trees = trees[np.argsort(depths[trees], kind="stable")]
        for start in range(0, len(trees), lanes):
            group = trees[start : start + lanes]
            fill = empty if neutral else int(roots[group[-1]])
            grouped += [*roots[group].tolist(), *[fill] * (lanes - len(group))]
            depth.append(int(depths[group].max()))
            target.append(-1 if vectors else int(key))
    return np.array(grouped, np.int32), np.array(depth, np.int32), np.array(target, np.int32)
