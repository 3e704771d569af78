"""Forests from and to the tree operators of ai.onnx.ml, versions 1 to 5."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import NodeProto, TensorProto, helper, numpy_helper

from edgec.compiler.kernels.forests.forest import Aggregate, Forest, ForestError, Ints, Mode

Attributes = Mapping[str, Any]
KEYED_MODES = {
    "BRANCH_LEQ": Mode.LE,
    "BRANCH_LT": Mode.LT,
    "BRANCH_GTE": Mode.GE,
    "BRANCH_GT": Mode.GT,
    "BRANCH_EQ": Mode.EQ,
    "BRANCH_NEQ": Mode.NE,
    "LEAF": Mode.LEAF,
}
KEYED_NAMES = {mode: name for name, mode in KEYED_MODES.items()}
ML_OPSET_KEYED, ML_OPSET_LISTED = 3, 5


def _check_lengths(attrs: Attributes, count: int) -> None:
    for name in ("nodeids", "featureids", "modes", "truenodeids", "falsenodeids"):
        entries = len(attrs.get(f"nodes_{name}", ()))
        if entries != count:
            raise ForestError(f"nodes_{name} has {entries} entries for {count} nodes")
    if not count:
        raise ForestError("it contains no trees")


def from_keyed(
    attrs: Attributes, n_features: int, prefix: str, n_targets: int, dtype: type[np.floating] = np.float32
) -> Forest:
    """The forest of a TreeEnsembleRegressor or -Classifier, which name nodes by tree and node number.

    Args:
        attrs: the node's attributes.
        n_features: width of the input.
        prefix: `target` or `class`, with which the names of the leaves' attributes begin.
        n_targets: width of the output; with 1, leaves of any class add to it.
        dtype: of thresholds and weights.

    Raises:
        ForestError: the attributes contradict each other.
    """
    trees, numbers = _ints(attrs, "nodes_treeids"), _ints(attrs, "nodes_nodeids")
    count = len(trees)
    _check_lengths(attrs, count)
    place = {key: i for i, key in enumerate(zip(trees.tolist(), numbers.tolist(), strict=True))}
    if len(place) < count:
        raise ForestError("two nodes of a tree have the same number")
    try:
        mode = np.array([KEYED_MODES[name] for name in attrs["nodes_modes"]], np.uint8)
    except KeyError as error:
        raise ForestError(f"a node has the unknown mode {error}") from error
    inner = mode != Mode.LEAF
    true = _resolve(place, trees, _ints(attrs, "nodes_truenodeids"), inner)
    false = _resolve(place, trees, _ints(attrs, "nodes_falsenodeids"), inner)
    first = {tree: i for i, tree in reversed(list(enumerate(trees.tolist())))}
    roots = np.array(sorted(first.values()), np.int32)
    targets = _ints(attrs, f"{prefix}_ids")
    leaf_trees, leaf_numbers = _ints(attrs, f"{prefix}_treeids"), _ints(attrs, f"{prefix}_nodeids")
    leaf_node = _resolve(place, leaf_trees, leaf_numbers, np.ones(len(leaf_trees), bool))
    weights, base = _floats(attrs, f"{prefix}_weights", dtype), _floats(attrs, "base_values", dtype)
    missing = attrs.get("nodes_missing_value_tracks_true") or [0] * count
    forest = Forest(
        n_features,
        n_targets,
        roots,
        mode,
        _ints(attrs, "nodes_featureids").astype(np.int32),
        _floats(attrs, "nodes_values", dtype),
        true,
        false,
        np.array(missing, np.bool_),
        leaf_node,
        (np.zeros(len(targets)) if n_targets == 1 else targets).astype(np.int32),
        weights,
        base if len(base) == n_targets else np.zeros(n_targets, dtype),
        {},
        Aggregate[str(attrs.get("aggregate_function", "SUM"))],
    )
    forest.check()
    return forest


def from_listed(attrs: Attributes, n_features: int, dtype: type[np.floating] = np.float32) -> Forest:
    """The forest of a TreeEnsemble (version 5), whose leaves are in a separate list.

    Args:
        attrs: the node's attributes.
        n_features: width of the input.
        dtype: of thresholds and weights.

    Raises:
        ForestError: the attributes contradict each other.
    """
    modes = numpy_helper.to_array(attrs["nodes_modes"]).astype(np.uint8)
    inner = len(modes)
    weights = _tensor(attrs["leaf_weights"], dtype)
    splits = _tensor(attrs["nodes_splits"], dtype)
    columns = [
        _ints(attrs, f"nodes_{name}") for name in ("truenodeids", "falsenodeids", "trueleafs", "falseleafs")
    ]
    true, false, true_leaf, false_leaf = columns
    feature = _ints(attrs, "nodes_featureids")
    if any(len(column) != inner for column in (*columns, splits, feature)):
        raise ForestError("its columns of nodes have different lengths")
    roots = _ints(attrs, "tree_roots").astype(np.int64)
    missing = np.array(attrs.get("nodes_missing_value_tracks_true") or [0] * inner, np.bool_)
    # A node both of whose sides are one leaf is a tree of that leaf alone.
    single = (true_leaf != 0) & (false_leaf != 0) & (true == false)
    true = np.where(true_leaf != 0, true + inner, true)
    false = np.where(false_leaf != 0, false + inner, false)
    if len(roots) and (roots.min() < 0 or roots.max() >= inner):
        raise ForestError("a tree's root is not among its nodes")
    roots = np.where(single[roots], true[roots], roots)
    leaves = len(weights)
    # nodes that became unreachable must not count as parents
    mode = np.where(single, Mode.LEAF, modes)
    filler = np.zeros(leaves, np.int64)
    forest = Forest(
        n_features,
        int(attrs.get("n_targets", 1)),
        roots.astype(np.int32),
        np.concatenate([mode, np.full(leaves, Mode.LEAF)]).astype(np.uint8),
        np.concatenate([feature, filler]).astype(np.int32),
        np.concatenate([splits, filler]).astype(dtype),
        np.concatenate([true, filler]).astype(np.int32),
        np.concatenate([false, filler]).astype(np.int32),
        np.concatenate([missing, filler]).astype(np.bool_),
        (np.arange(leaves) + inner).astype(np.int32),
        _ints(attrs, "leaf_targetids").astype(np.int32),
        weights,
        np.zeros(int(attrs.get("n_targets", 1)), dtype),
        _members(attrs, modes),
        Aggregate(attrs.get("aggregate_function", 1)),
    )
    forest.check()
    return forest


def _members(attrs: Attributes, modes: npt.NDArray[np.uint8]) -> dict[int, tuple[float, ...]]:
    nodes = np.flatnonzero(modes == Mode.MEMBER)
    if not len(nodes):
        return {}
    values = _tensor(attrs["membership_values"], np.float64) if "membership_values" in attrs else np.zeros(0)
    sets: list[tuple[float, ...]] = []
    members: list[float] = []
    for value in [*values.tolist(), np.nan]:
        if np.isnan(value):
            sets.append(tuple(sorted(set(members))))
            members = []
        else:
            members.append(value)
    if len(sets) < len(nodes):
        raise ForestError(f"there are {len(sets)} sets for {len(nodes)} nodes that test membership")
    return {int(node): members for node, members in zip(nodes, sets, strict=False)}


def _resolve(
    place: Mapping[tuple[int, int], int], trees: Ints, numbers: Ints, wanted: npt.NDArray[np.bool_]
) -> Ints:
    if len(trees) != len(numbers):
        raise ForestError("its columns of nodes have different lengths")
    out = np.zeros(len(trees), np.int32)
    for i in np.flatnonzero(wanted).tolist():
        key = (int(trees[i]), int(numbers[i]))
        if key not in place:
            raise ForestError(f"tree {key[0]} has no node {key[1]}")
        out[i] = place[key]
    return out


def _ints(attrs: Attributes, name: str) -> Ints:
    return np.array(attrs.get(name, []), np.int64).astype(np.int32)


def _floats(attrs: Attributes, name: str, dtype: type[np.floating]) -> npt.NDArray[Any]:
    tensor = attrs.get(f"{name}_as_tensor")
    if tensor is not None:
        return _tensor(tensor, dtype)
    return np.array(attrs.get(name, []), np.float32).astype(dtype)


def _tensor(tensor: TensorProto, dtype: type[np.floating]) -> npt.NDArray[Any]:
    return np.asarray(numpy_helper.to_array(tensor)).reshape(-1).astype(dtype)


def to_node(forest: Forest, source: str, output: str, name: str = "trees") -> NodeProto:
    """The forest as one ONNX node from `source` `[N, features]` to `output` `[N, targets]`.

    A TreeEnsembleRegressor, which supports leaves with several targets; a TreeEnsemble where nodes test membership in
    sets.
    """
    if forest.members:
        return _listed_node(forest, source, output, name)
    tree, number = _numbering(forest)
    leaf_tree, leaf_number = tree[forest.leaf_node], number[forest.leaf_node]
    inner = forest.mode != Mode.LEAF
    return helper.make_node(
        "TreeEnsembleRegressor",
        [source],
        [output],
        name=name,
        domain="ai.onnx.ml",
        n_targets=forest.n_targets,
        aggregate_function=forest.aggregate.name,
        base_values=forest.base.tolist(),
        nodes_treeids=tree.tolist(),
        nodes_nodeids=number.tolist(),
        nodes_featureids=np.where(inner, forest.feature, 0).tolist(),
        nodes_values=np.where(inner, forest.threshold, 0).tolist(),
        nodes_modes=[KEYED_NAMES[Mode(mode)] for mode in forest.mode.tolist()],
        nodes_truenodeids=np.where(inner, number[forest.true], 0).tolist(),
        nodes_falsenodeids=np.where(inner, number[forest.false], 0).tolist(),
        nodes_missing_value_tracks_true=forest.missing_true.astype(int).tolist(),
        target_treeids=leaf_tree.tolist(),
        target_nodeids=leaf_number.tolist(),
        target_ids=forest.leaf_target.tolist(),
        target_weights=forest.leaf_weight.tolist(),
    )


def _numbering(forest: Forest) -> tuple[Ints, Ints]:
    """Each node's tree, and its number within the tree (a forest's nodes stand tree by tree)."""
    tree = np.searchsorted(forest.roots, np.arange(forest.n_nodes), side="right") - 1
    return tree.astype(np.int32), (np.arange(forest.n_nodes) - forest.roots[tree]).astype(np.int32)


def _listed_node(forest: Forest, source: str, output: str, name: str) -> NodeProto:
    if (forest.base != 0).any() or forest.aggregate is not Aggregate.SUM:
        raise ForestError("a TreeEnsemble has no base values")
    inner = np.flatnonzero(forest.mode != Mode.LEAF)
    leaves = forest.leaf_node
    if len(np.unique(leaves)) != len(leaves) or len(leaves) != int((forest.mode == Mode.LEAF).sum()):
        raise ForestError("leaves with several targets cannot be combined with sets of categories")
    position = np.zeros(forest.n_nodes, np.int64)
    position[inner], position[leaves] = np.arange(len(inner)), np.arange(len(leaves))
    is_leaf = (forest.mode == Mode.LEAF).astype(np.int64)
    stumps = [int(root) for root in forest.roots if is_leaf[root]]
    extra = {root: len(inner) + i for i, root in enumerate(stumps)}
    sides = {
        side: np.concatenate([position[child[inner]], position[stumps]]).astype(np.int64)
        for side, child in (("true", forest.true), ("false", forest.false))
    }
    leafs = {
        side: np.concatenate([is_leaf[child[inner]], np.ones(len(stumps), np.int64)])
        for side, child in (("true", forest.true), ("false", forest.false))
    }
    filler = np.zeros(len(stumps))
    modes = np.concatenate([forest.mode[inner], filler]).astype(np.uint8)
    members = [
        [*map(float, forest.members[node]), np.nan] for node in inner.tolist() if node in forest.members
    ]
    return helper.make_node(
        "TreeEnsemble",
        [source],
        [output],
        name=name,
        domain="ai.onnx.ml",
        n_targets=forest.n_targets,
        aggregate_function=int(forest.aggregate),
        tree_roots=[extra.get(root, int(position[root])) for root in forest.roots.tolist()],
        nodes_modes=numpy_helper.from_array(modes, "modes"),
        nodes_splits=_as_tensor(np.concatenate([forest.threshold[inner], filler])),
        nodes_featureids=np.concatenate([forest.feature[inner], filler]).astype(np.int64).tolist(),
        nodes_missing_value_tracks_true=np.concatenate([forest.missing_true[inner], filler])
        .astype(int)
        .tolist(),
        nodes_truenodeids=sides["true"].tolist(),
        nodes_falsenodeids=sides["false"].tolist(),
        nodes_trueleafs=leafs["true"].tolist(),
        nodes_falseleafs=leafs["false"].tolist(),
        membership_values=_as_tensor([value for one in members for value in one]),
        leaf_weights=_as_tensor(forest.leaf_weight),
        leaf_targetids=forest.leaf_target.tolist(),
    )


def _as_tensor(values: Sequence[float] | npt.NDArray[np.generic]) -> TensorProto:
    return numpy_helper.from_array(np.asarray(values, np.float32))
