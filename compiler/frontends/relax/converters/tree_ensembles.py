"""The tree ensembles of ai.onnx.ml, compiled to one kernel."""

from __future__ import annotations

from typing import Any

import numpy as np
from onnx import numpy_helper
from tvm import relax

from edgec.compiler.frontends.onnx.tree_ensemble import from_keyed, from_listed
from edgec.compiler.frontends.relax.builder import Array, Expr, constant
from edgec.compiler.frontends.relax.converters.class_scores import (
    TRANSFORMS,
    best_class,
    binary_scores,
    class_labels,
    pick_label,
    post_transform,
)
from edgec.compiler.frontends.relax.converters.registry import ML, CannotConvert, Node, converts
from edgec.compiler.kernels.forests.forest import Aggregate, Doubles, Forest, ForestError
from edgec.compiler.kernels.forests.kernel import ForestKernel
from edgec.compiler.kernels.forests.ranks import ranked
from edgec.compiler.kernels.forests.table import lay_out


@converts("TreeEnsemble", domain=ML)
def _tree_ensemble(node: Node) -> Expr:
    forest = _parsed(from_listed, node)
    transform = TRANSFORMS[node.attrs.get("post_transform", 0)]
    scores = node.emit(forest_scores(node, forest))
    if transform != "NONE":  # transforms are computed in fp32
        scores = relax.op.astype(scores, "float32")
    return relax.op.astype(post_transform(node, node.emit(scores), transform), node.dtype(0))


@converts("TreeEnsembleRegressor", domain=ML)
def _tree_ensemble_regressor(node: Node) -> Expr:
    forest = _parsed(from_keyed, node, "target", node.attrs.get("n_targets", 1))
    return post_transform(node, _fp32_scores(node, forest), node.attrs.get("post_transform", "NONE"))


@converts("TreeEnsembleClassifier", domain=ML)
def _tree_ensemble_classifier(node: Node) -> list[Expr]:
    labels = class_labels(node)
    transform = node.attrs.get("post_transform", "NONE")
    # ONNX hardly specifies two classes of which only one has weights; this is what ONNX Runtime does, and
    # what exporters rely on: one score, from which the other class's follows.
    if len(labels) == 2 and len(set(node.attrs["class_ids"])) == 1:
        forest = _parsed(from_keyed, node, "class", 1)
        positive = bool((_floats(node, "class_weights") >= 0).all())
        score = _fp32_scores(node, forest)
        base = _floats(node, "base_values")
        if len(base) == 2:
            score = node.emit(score + constant(base[1:].astype(np.float32), "float32"))
        limit = 0.5 if positive else 0.0
        label = pick_label(node, relax.op.greater(score, constant(limit, "float32")), labels)
        return [label, binary_scores(node, score, transform, shares=positive)]
    forest = _parsed(from_keyed, node, "class", len(labels))
    scores = _fp32_scores(node, forest)
    best = best_class(node, scores)
    return [pick_label(node, best, labels), post_transform(node, scores, transform)]


def _parsed(parse: Any, node: Node, *args: Any) -> Forest:  # noqa: ANN401 - one of the two parsers
    if node.rank(0) != 2:
        raise CannotConvert(f"its input has rank {node.rank(0)}, and rows of features are needed")
    dtype = np.float64 if node.dtype(0) == "float64" else np.float32
    try:
        forest: Forest = parse(node.attrs, node.shape(0)[1], *args, dtype=dtype)
    except ForestError as error:
        raise CannotConvert(str(error)) from error
    return forest


def _floats(node: Node, name: str) -> Array:
    tensor = node.attrs.get(f"{name}_as_tensor")
    if tensor is not None:
        return np.asarray(numpy_helper.to_array(tensor))
    return np.array(node.attrs.get(name, []), np.float32)


def _fp32_scores(node: Node, forest: Forest) -> Expr:
    scores = node.emit(forest_scores(node, forest))
    return scores if scores.ty.dtype == "float32" else node.emit(relax.op.astype(scores, "float32"))


def forest_scores(node: Node, forest: Forest) -> Expr:
    """Emit the forest: `[rows, n_targets]` before any transform, fp32 or (with fp64 features) fp64."""
    if forest.aggregate in (Aggregate.MIN, Aggregate.MAX):
        reached = np.unique(forest.leaf_target)
        if len(reached) < forest.n_targets:
            raise CannotConvert("a target without leaves has no minimum or maximum")
    if node.dtype(0) == "float64" or not forest.categorical:
        return _fp64_scores(node, forest)
    x = relax.op.astype(node.input(0), "float32") if node.dtype(0) != "float32" else node.input(0)
    return _walks(node, node.emit(x), forest)


def _walks(node: Node, x: Expr, forest: Forest) -> Expr:
    """The forest's kernel on fp32 features."""
    rows = node.shape(0)[0]
    try:
        table = lay_out(forest)
    except ForestError as error:
        raise CannotConvert(str(error)) from error
    kernel = ForestKernel(table, rows)
    arguments = [constant(np.ascontiguousarray(array)) for array in kernel.arguments().values()]
    symbol = f"forest_{len(node.builder.get().functions)}"
    function = node.builder.add_func(kernel.build(symbol), symbol)
    call = relax.call_tir(
        function, [x, *arguments], out_ty=relax.TensorType((rows, forest.n_targets), "float32")
    )
    return node.emit(call)


def _fp64_scores(node: Node, forest: Forest) -> Expr:
    """Ranks in place of features, numbers of leaves from the kernel, and their weights combined in fp64."""
    try:
        told = ranked(forest)
    except ForestError as error:
        raise CannotConvert(str(error)) from error
    x = node.emit(relax.op.astype(node.input(0), "float64")) if node.dtype(0) != "float64" else node.input(0)
    sides = [
        relax.op.astype(node.emit(_bucket(x, told.thresholds, right=right)), "float32")
        for right in (False, True)
    ]
    ranks = node.emit(relax.op.where(relax.op.isnan(x), constant(np.nan, "float32"), sides[0] + sides[1]))
    leaves = relax.op.astype(_walks(node, ranks, told.forest), "int32")
    found = node.emit(relax.op.take(constant(told.weights), node.emit(leaves), axis=0, mode="clip"))
    combine = {Aggregate.MIN: relax.op.min, Aggregate.MAX: relax.op.max, Aggregate.AVERAGE: relax.op.mean}
    scores = combine.get(forest.aggregate, relax.op.sum)(found, axis=[1])
    return node.emit(scores + constant(np.asarray(forest.base, np.float64)))


def _bucket(x: Expr, thresholds: Doubles, *, right: bool) -> Expr:
    if not len(thresholds):
        return relax.op.zeros_like(x, "int32")
    return relax.op.bucketize(x, constant(thresholds), out_int32=True, right=right)
