"""Linear regression and classification (ai.onnx.ml)."""

from __future__ import annotations

import numpy as np
from tvm import relax

from edgec.compiler.frontends.relax.builder import Expr, constant
from edgec.compiler.frontends.relax.converters.class_scores import (
    best_class,
    binary_scores,
    class_labels,
    f32,
    pick_label,
    post_transform,
)
from edgec.compiler.frontends.relax.converters.features import float_input
from edgec.compiler.frontends.relax.converters.registry import ML, CannotConvert, Node, converts, reshaped


def _rows(node: Node) -> Expr:
    """The input as `[rows, features]` fp32; a vector is one row."""
    x = float_input(node)
    shape = node.shape(0)
    if len(shape) == 1:
        return node.emit(reshaped(x, (1, shape[0])))
    if len(shape) != 2:
        raise CannotConvert(f"its input has rank {len(shape)}, and rows of features are needed")
    return x


def _linear(node: Node, x: Expr, outputs: int) -> Expr:
    weights = np.array(node.attrs["coefficients"], np.float32)
    features = int(x.ty.shape[1])
    if weights.size != outputs * features:
        raise CannotConvert(
            f"it has {weights.size} coefficients for {outputs} outputs of {features} features"
        )
    matrix = np.ascontiguousarray(weights.reshape(outputs, features).T)
    scores = relax.op.matmul(x, constant(matrix))
    intercepts = np.array(node.attrs.get("intercepts") or [0.0], np.float32)
    return node.emit(scores + constant(intercepts)) if intercepts.any() else node.emit(scores)


@converts("LinearRegressor", domain=ML)
def _linear_regressor(node: Node) -> Expr:
    scores = _linear(node, _rows(node), node.attrs.get("targets", 1))
    return post_transform(node, scores, node.attrs.get("post_transform", "NONE"))


@converts("LinearClassifier", domain=ML)
def _linear_classifier(node: Node) -> list[Expr]:
    x = _rows(node)
    labels = class_labels(node)
    transform = node.attrs.get("post_transform", "NONE")
    outputs = len(node.attrs["coefficients"]) // int(x.ty.shape[1])
    scores = _linear(node, x, outputs)
    if outputs == 1 and len(labels) == 2:
        label = pick_label(node, relax.op.greater(scores, f32(0)), labels)
        return [label, binary_scores(node, scores, transform, shares=False)]
    label = pick_label(node, best_class(node, scores), labels)
    return [label, post_transform(node, scores, transform)]
