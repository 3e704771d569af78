"""Rewrite every test of a forest's nodes to `column < threshold`, with the columns that this takes."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edgec.compiler.kernels.forests.forest import Floats, Forest, ForestError, Ints, Mode

MAX_MEMBER_TABLE = 64 << 20  # bytes; categories times distinct sets of one feature


@dataclass(frozen=True)
class Intervals:
    """Columns that hold `inside` where `low <= x[feature] <= high`, and its opposite elsewhere."""

    feature: Ints
    low: Floats
    high: Floats
    inside: Floats


@dataclass(frozen=True)
class Membership:
    """Columns of one feature that say whether its category is in a set.

    `table[category, set]` is -1 (yes) or 1; the last row is for numbers that are no known category.
    """

    feature: int
    first_column: int
    table: npt.NDArray[np.int8]


@dataclass
class Questions:
    """The forest's nodes rewritten to `column < threshold`."""

    column: Ints
    threshold: Floats
    yes: Ints
    no: Ints
    columns: int
    negated: bool
    intervals: Intervals
    memberships: tuple[Membership, ...]


def unify(forest: Forest) -> Questions:
    """The forest's nodes with one kind of test (see `table`).

    Raises:
        ForestError: a set of categories that is too large for a table.
    """
    mode, missing, threshold = forest.mode, forest.missing_true, forest.threshold
    # "x < t" and "x >= t" are each other's opposite, as are "<=" and ">".
    greater = (mode == Mode.GT) | (mode == Mode.GE)
    flip = missing & (greater | (mode == Mode.LT) | (mode == Mode.LE))
    strict = ((mode == Mode.LT) | (mode == Mode.GT)) ^ flip
    upward = greater ^ flip
    bound = np.where(upward, -threshold, threshold)
    # No number is above infinity, so "x <= inf" needs a question of its own, as equality does.
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
    return Questions(
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
        return (feature, tuple(map(int, forest.members[node])), inverted), inverted
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
        """Record the question that `node` asks."""
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
