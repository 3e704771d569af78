"""One tree of XGBoost's JSON format: checked when it is read, and written anew for the library."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from edgec.compiler.kernels.forests.forest import Builder, ForestError, Mode

MAX_CATEGORY = 1 << 24  # XGBoost's own limit: fp32 holds the whole numbers below it
_NO_PARENT = 0x7FFFFFFF
_NO_CHILD = -1
_DELETED = 0x7FFFFFFF  # as the feature of a node that pruning removed

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Tree:
    """A tree: all indices are in range, and every node but the first has one parent.

    Attributes:
        left, right: `[nodes]`, the children; -1 in leaves.
        feature: `[nodes]`; 0 in leaves.
        value: `[nodes]` fp32: the threshold of an inner node, the weight of a leaf.
        default_left: `[nodes]` bool.
        members: of inner nodes that test categories, in the order of the nodes.
    """

    left: Ints
    right: Ints
    feature: Ints
    value: npt.NDArray[np.float32]
    default_left: npt.NDArray[np.bool_]
    members: Mapping[int, tuple[int, ...]] = field(default_factory=dict)

    def add_to(self, builder: Builder, group: int, weight: np.float32) -> None:
        """Add the tree to a forest; `weight` scales its leaves, which serve the output `group`."""
        leaf, chosen = self.left == _NO_CHILD, self.chosen()
        leaves = np.flatnonzero(leaf)
        builder.add_tree(
            mode=np.where(leaf, Mode.LEAF, np.where(chosen, Mode.MEMBER, Mode.LT)),
            feature=self.feature,
            threshold=np.where(leaf | chosen, 0, self.value),
            # categories in the set go right; numbers below the threshold go left
            true=np.where(leaf, 0, np.where(chosen, self.right, self.left)),
            false=np.where(leaf, 0, np.where(chosen, self.left, self.right)),
            missing_true=np.where(leaf, False, self.default_left ^ chosen),
            leaf_node=leaves,
            leaf_target=np.full(len(leaves), group),
            leaf_weight=self.value[leaves] * weight,
            members=self.members,
        )

    def chosen(self) -> npt.NDArray[np.bool_]:
        """`[nodes]`: the node tests categories."""
        chosen = np.zeros(len(self.left), bool)
        chosen[list(self.members)] = True
        return chosen

    def document(self, number: int, features: int) -> dict[str, Any]:
        """The tree in the JSON format, with what its prediction needs; statistics of the training are zero."""
        nodes, inner = len(self.left), np.flatnonzero(self.left != _NO_CHILD)
        parents = np.full(nodes, _NO_PARENT, np.int32)
        parents[self.left[inner]] = parents[self.right[inner]] = inner
        sizes = np.array([len(values) for values in self.members.values()], np.int64)
        nothing = np.zeros(nodes, np.float32)
        return {
            "id": number,
            "tree_param": {
                "num_deleted": "0", "num_feature": str(features), "num_nodes": str(nodes),
                "size_leaf_vector": "1",
            },
            "left_children": self.left.astype(np.int32),
            "right_children": self.right.astype(np.int32),
            "parents": parents,
            "split_indices": self.feature.astype(np.int32),
            "split_conditions": self.value,
            "default_left": self.default_left.astype(np.uint8),
            "split_type": self.chosen().astype(np.uint8),
            "categories": np.array([c for values in self.members.values() for c in values], np.int32),
            "categories_nodes": np.array(list(self.members), np.int32),
            "categories_segments": np.cumsum(sizes) - sizes,
            "categories_sizes": sizes,
            "base_weights": nothing, "loss_changes": nothing, "sum_hessian": nothing,
        }  # fmt: skip


def read_tree(tree: Mapping[str, Any], features: int) -> Tree:
    """Read a tree for rows of `features`.

    Raises:
        ForestError: vectors in its leaves, columns of unequal lengths, or an index out of range.
    """
    if int(tree["tree_param"].get("size_leaf_vector", 1)) > 1:
        raise ForestError(
            "its trees have vectors in their leaves; train it with multi_strategy='one_output_per_tree'"
        )
    given = np.asarray(tree["left_children"])
    nodes = len(given)
    left = integers(given, nodes, _NO_CHILD, nodes, "a child")
    leaf = left == _NO_CHILD
    right = integers(_but(tree["right_children"], leaf, _NO_CHILD), nodes, _NO_CHILD, nodes, "a child")
    if (right[~leaf] == _NO_CHILD).any():
        raise ForestError("a node has one child only")
    feature = integers(_but(tree["split_indices"], leaf, 0), nodes, 0, features, "a feature")
    value = np.asarray(tree["split_conditions"], np.float32)
    default_left = np.asarray(tree["default_left"])
    if value.shape != (nodes,) or default_left.shape != (nodes,):
        raise ForestError("the columns of a tree have different lengths")
    members = {node: values for node, values in _members(tree, nodes).items() if not leaf[node]}
    kept = _reached(left, right)
    if (np.asarray(tree["split_indices"])[~kept] != _DELETED).any():
        raise ForestError("a node has no parent")
    place = np.append(
        np.cumsum(kept) - 1, _NO_CHILD
    )  # of each node among those that are kept; the last for -1
    return Tree(
        place[left[kept]],
        place[right[kept]],
        feature[kept],
        value[kept],
        default_left.astype(bool)[kept],
        {int(place[node]): values for node, values in sorted(members.items()) if kept[node]},
    )


def _reached(left: Ints, right: Ints) -> npt.NDArray[np.bool_]:
    """`[nodes]`: a walk from the first node may come there."""
    inner = left != _NO_CHILD
    parents = np.bincount(np.concatenate([left[inner], right[inner]]), minlength=len(left))
    if not len(left) or parents[0]:
        raise ForestError("a tree has no first node")
    if (parents > 1).any():
        raise ForestError(f"node {int(np.argmax(parents > 1))} has two parents, so this is not a tree")
    reached, front = np.zeros(len(left), bool), np.zeros(1, np.int64)
    while len(front):
        reached[front] = True
        front = front[inner[front]]
        front = np.concatenate([left[front], right[front]])
    return reached


def _but(column: Any, where: npt.NDArray[np.bool_], value: int) -> npt.NDArray[np.generic]:  # noqa: ANN401
    """The column with `value` at some places: leaves hold anything there."""
    given = np.asarray(column)
    if given.shape != where.shape:
        raise ForestError("the columns of a tree have different lengths")
    return np.where(where, value, given)


def integers(column: Any, size: int, low: int, end: int, what: str) -> Ints:  # noqa: ANN401 - from a file
    """A column of whole numbers from `low` to below `end`.

    Raises:
        ForestError: other values, or another number of them.
    """
    given = np.asarray(column)
    if given.shape != (size,):
        raise ForestError(f"the column of {what} has the shape {list(given.shape)}, not [{size}]")
    if size and (given.dtype.kind not in "iu" or given.min() < low or given.max() >= end):
        raise ForestError(f"{what} is outside {low} … {end - 1}")
    return given.astype(np.int64)


def _members(tree: Mapping[str, Any], nodes: int) -> dict[int, tuple[int, ...]]:
    """The set of categories of each node that tests them."""
    stored = np.asarray(tree.get("categories", []))
    values = integers(stored, len(stored), 0, MAX_CATEGORY, "a category")
    numbers = np.asarray(tree.get("categories_nodes", []))
    count = len(numbers)
    numbers = integers(numbers, count, 0, nodes, "a node of categories")
    starts = integers(
        tree.get("categories_segments", []), count, 0, len(values) + 1, "a category set's start"
    )
    sizes = integers(tree.get("categories_sizes", []), count, 1, len(values) + 1, "a category set's size")
    if (starts + sizes > len(values)).any():
        raise ForestError("a category set reaches beyond the categories")
    found: dict[int, tuple[int, ...]] = {}
    for node, start, size in zip(numbers.tolist(), starts.tolist(), sizes.tolist(), strict=True):
        found[node] = tuple(values[start : start + size].tolist())
    return found
