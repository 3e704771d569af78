"""Lay a forest out for the kernel: every node asks the same question, and children lie side by side.

Every test of a node becomes ``column < threshold``, which a NaN fails, so that one step of a walk is
three loads, one comparison and one addition, without a branch:

- ``x <= t`` is ``x < next(t)``; ``x >= t`` and ``x > t`` ask about a second column that holds ``-x``;
- a node that sends missing values to its true side asks the opposite question with its children swapped;
- what no single comparison answers (equality, membership in a set) gets a column of its own that holds -1 for
  yes, 1 for no and NaN for missing. Equal questions of different nodes share one.

The false child of a node is ``child``, the true one ``child + 1``; a leaf has itself as false child and asks
for ``x < -inf``, so that walks which arrive early stay where they are.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edgec.compiler.kernels.forests.forest import Aggregate, Floats, Forest, ForestError, Ints, Mode

LANES = 8  # walks that run side by side; measured on Zen 5: 8 is as fast as 12 or 16, 4 is 1.5 times slower
MAX_MEMBER_TABLE = 64 << 20  # bytes; categories times distinct sets of one feature


@dataclass(frozen=True)
class Intervals:
    """Columns that hold `inside` where ``low <= x[feature] <= high``, and its opposite elsewhere."""

    feature: Ints
    low: Floats
    high: Floats
    inside: Floats


@dataclass(frozen=True)
class Membership:
    """Columns of one feature that say whether its category is in a set.

    ``table[category, set]`` is -1 (yes) or 1; the last row is for numbers that are no known category.
    """

    feature: int
    first_column: int
    table: npt.NDArray[np.int8]


@dataclass(frozen=True)
class Table:
    """A forest in the kernel's layout.

    Attributes:
        columns: the number of columns that a row is widened to.
        negated: the columns ``n_features … 2 n_features`` hold ``-x``.
        feature, threshold, child: ``[nodes]``; `feature` is a column.
        value: ``[nodes]`` fp32, what a leaf adds; with `rows`, unused.
        leaf_row, rows: ``[nodes]`` and ``[leaves, targets]``, for forests with leaves of several targets.
        roots: ``[groups × lanes]``.
        depth, target: ``[groups]``, steps of a group's deepest walk, and the target it adds to (-1 with
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


@dataclass
class _Questions:
    """The forest's nodes rewritten to ``column < threshold``."""

    column: Ints
    threshold: Floats
    yes: Ints
    no: Ints
    columns: int
    negated: bool
    intervals: Intervals
    memberships: tuple[Membership, ...]


def lay_out(forest: Forest, lanes: int = LANES) -> Table:
    """Lay a forest out for the kernel.

    Raises:
        ForestError: a set of categories that is too large for a table.
    """
    lanes = min(lanes, len(forest.roots))
    questions = _unify(forest)
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
        forest.base,
        forest.aggregate,
        lanes,
        len(forest.roots),
    )


def _unify(forest: Forest) -> _Questions:
    mode, missing, threshold = forest.mode, forest.missing_true, forest.threshold
    # "x < t" and "x >= t" are each other's opposite, as are "<=" and ">".
    greater = (mode == Mode.GT) | (mode == Mode.GE)
    flip = missing & (greater | (mode == Mode.LT) | (mode == Mode.LE))
    strict = ((mode == Mode.LT) | (mode == Mode.GT)) ^ flip
    upward = greater ^ flip
    bound = np.where(upward, -threshold, threshold)
    # No number lies above infinity, so "x <= inf" needs a question of its own, as equality does.
    own = (mode >= Mode.EQ) | (~strict & (bound == np.inf))
    own &= mode != Mode.LEAF
    negated = bool((upward & ~own & (mode != Mode.LEAF)).any())
    column = np.where(upward, forest.feature + forest.n_features, forest.feature).astype(np.int32)
    bound = np.where(strict, bound, np.nextafter(bound, np.float32(np.inf))).astype(np.float32)
    bound[own] = 0
    columns = _Columns(forest.n_features * (2 if negated else 1))
    swap = flip.copy()
    for node in np.flatnonzero(own):
        asked, inverted = _own_question(forest, int(node))
        columns.ask(int(node), asked)
        swap[node] = inverted
    columns.number(column)
    return _Questions(
        column,
        bound,
        np.where(swap, forest.false, forest.true).astype(np.int32),
        np.where(swap, forest.true, forest.false).astype(np.int32),
        columns.end,
        negated,
        columns.intervals(),
        columns.memberships(),
    )


_Interval = tuple[int, float, float, bool]  # feature, low, high, whether the answer is inverted
_Set = tuple[int, tuple[int, ...], bool]  # feature, categories, whether the answer is inverted


def _own_question(forest: Forest, node: int) -> tuple[_Interval | _Set, bool]:
    """The question that a node's own column answers, and whether its children change places.

    NaN answers no. A node that sends NaN to its true side asks the inverted question.
    """
    feature, mode = int(forest.feature[node]), forest.mode[node]
    inverted = bool(forest.missing_true[node])
    if mode == Mode.MEMBER:
        return (feature, forest.members[node], inverted), inverted
    if mode in (Mode.EQ, Mode.NE):
        value = float(forest.threshold[node])
        if mode == Mode.NE:  # equal or not, with the sides changed; NaN is equal to nothing
            return (feature, value, value, False), True
        return (feature, value, value, inverted), inverted
    return (feature, -np.inf, np.inf, False), bool(forest.missing_true[node])


class _Columns:
    """Collects the columns that answer questions of their own."""

    def __init__(self, first: int) -> None:
        self.first = self.end = first
        self._asked: dict[Hashable, list[int]] = {}
        self._numbers: dict[Hashable, int] = {}

    def ask(self, node: int, question: _Interval | _Set) -> None:
        """Note that `node` asks a question."""
        self._asked.setdefault(question, []).append(node)

    def number(self, column: Ints) -> None:
        """Give each question a column: intervals first, then sets by feature; write them into `column`."""
        intervals = [q for q in self._asked if isinstance(q, tuple) and len(q) == 4]
        sets = [q for q in self._asked if isinstance(q, tuple) and len(q) == 3]
        for question in [*intervals, *sorted(sets, key=lambda q: q[0])]:
            self._numbers[question] = self.end
            column[self._asked[question]] = self.end
            self.end += 1

    def intervals(self) -> Intervals:
        """The questions about intervals, in the order of their columns."""
        asked = [q for q in self._numbers if isinstance(q, tuple) and len(q) == 4]
        return Intervals(
            np.array([q[0] for q in asked], np.int32),
            np.array([q[1] for q in asked], np.float32),
            np.array([q[2] for q in asked], np.float32),
            np.array([1 if q[3] else -1 for q in asked], np.float32),
        )

    def memberships(self) -> tuple[Membership, ...]:
        """The questions about sets, by feature."""
        by_feature: dict[int, list[_Set]] = {}
        for question in self._numbers:
            if isinstance(question, tuple) and len(question) == 3:
                by_feature.setdefault(question[0], []).append(question)
        return tuple(self._membership(feature, asked) for feature, asked in by_feature.items())

    def _membership(self, feature: int, asked: list[_Set]) -> Membership:
        members = [value for question in asked for value in question[1]]
        if members and min(members) < 0:
            raise ForestError(f"feature {feature} has a negative category, which no front end makes")
        categories = max(members, default=-1) + 1
        if (categories + 1) * len(asked) > MAX_MEMBER_TABLE:
            raise ForestError(
                f"feature {feature} has {len(asked)} sets of {categories} categories, too many for a table"
            )
        table = np.ones((categories + 1, len(asked)), np.int8)
        for position, (_, values, inverted) in enumerate(asked):
            table[list(values), position] = -1
            if inverted:
                table[:, position] *= -1
        return Membership(feature, self._numbers[asked[0]], table)


def _depth_first(forest: Forest, questions: _Questions) -> tuple[Ints, Ints]:
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
    tree = np.zeros(forest.n_nodes, np.int32)
    front, number = forest.roots, np.arange(len(forest.roots), dtype=np.int32)
    while len(front):
        tree[front] = number
        inner = forest.mode[front] != Mode.LEAF
        front, number = front[inner], np.concatenate([number[inner], number[inner]])
        front = np.concatenate([forest.true[front], forest.false[front]])
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
