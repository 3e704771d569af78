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
    binary_scores,
    class_labels,
    pick_label,
    post_transform,
)
from edgec.compiler.frontends.relax.converters.registry import ML, CannotConvert, Node, converts
from edgec.compiler.kernels.forests.forest import Aggregate, Forest, ForestError
from edgec.compiler.kernels.forests.kernel import ForestKernel
from edgec.compiler.kernels.forests.table import lay_out


@converts("TreeEnsemble", domain=ML)
def _tree_ensemble(node: Node) -> Expr:
    forest = _parsed(from_listed, node)
    transform = TRANSFORMS[node.attrs.get("post_transform", 0)]
    scores = post_transform(node, forest_scores(node, forest), transform)
    return relax.op.astype(scores, node.dtype(0))


@converts("TreeEnsembleRegressor", domain=ML)
def _tree_ensemble_regressor(node: Node) -> Expr:
    forest = _parsed(from_keyed, node, "target", node.attrs.get("n_targets", 1))
    return post_transform(node, forest_scores(node, forest), node.attrs.get("post_transform", "NONE"))


@converts("TreeEnsembleClassifier", domain=ML)
def _tree_ensemble_classifier(node: Node) -> list[Expr]:
    labels = class_labels(node)
    transform = node.attrs.get("post_transform", "NONE")
    # ONNX hardly specifies two classes of which only one has weights; this is what ONNX Runtime does, and
    # what exporters rely on: one score, from which the other class's follows.
    if len(labels) == 2 and len(set(node.attrs["class_ids"])) == 1:
        forest = _parsed(from_keyed, node, "class", 1)
        positive = bool((_floats(node, "class_weights") >= 0).all())
        score = node.emit(forest_scores(node, forest))
        base = _floats(node, "base_values")
        if len(base) == 2:
            score = node.emit(score + constant(base[1:], "float32"))
        limit = 0.5 if positive else 0.0
        label = pick_label(node, relax.op.greater(score, constant(limit, "float32")), labels)
        return [label, binary_scores(node, score, transform, shares=positive)]
    forest = _parsed(from_keyed, node, "class", len(labels))
    scores = node.emit(forest_scores(node, forest))
    best = relax.op.argmax(scores, axis=1)
    return [pick_label(node, best, labels), post_transform(node, scores, transform)]


def _parsed(parse: Any, node: Node, *args: Any) -> Forest:  # noqa: ANN401 - one of the two parsers
    if node.rank(0) != 2:
        raise CannotConvert(f"its input has rank {node.rank(0)}, and rows of features are needed")
    if node.dtype(0) == "float64":
        raise CannotConvert("it compares fp64 features, and forests are compiled for fp32 ones")
    try:
        forest: Forest = parse(node.attrs, node.shape(0)[1], *args)
    except ForestError as error:
        raise CannotConvert(str(error)) from error
    return forest


def _floats(node: Node, name: str) -> Array:
    tensor = node.attrs.get(f"{name}_as_tensor")
    if tensor is not None:
        return np.asarray(numpy_helper.to_array(tensor))
    return np.array(node.attrs.get(name, []), np.float32)


def forest_scores(node: Node, forest: Forest) -> Expr:
    """Emit the forest's kernel: `[rows, n_targets]` fp32, before any transform."""
    rows = node.shape(0)[0]
    if forest.aggregate in (Aggregate.MIN, Aggregate.MAX):
        reached = np.unique(forest.leaf_target)
        if len(reached) < forest.n_targets:
            raise CannotConvert("a target without leaves has no minimum or maximum")
    try:
        table = lay_out(forest)
    except ForestError as error:
        raise CannotConvert(str(error)) from error
    kernel = ForestKernel(table, rows)
    x = relax.op.astype(node.input(0), "float32") if node.dtype(0) != "float32" else node.input(0)
    arguments = [constant(np.ascontiguousarray(array)) for array in kernel.arguments().values()]
    symbol = f"forest_{len(node.builder.get().functions)}"
    function = node.builder.add_func(kernel.build(symbol), symbol)
    call = relax.call_tir(
        function, [node.emit(x), *arguments], out_ty=relax.TensorType((rows, forest.n_targets), "float32")
    )
    return node.emit(call)
