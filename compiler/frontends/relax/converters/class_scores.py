"""From the scores of a classical classifier to its label and probabilities.

Where the standard is unspecific, this follows ONNX Runtime, against which exporters such as scikit-learn's are tested.
"""

from __future__ import annotations

import math

import numpy as np
from tvm import relax

from edgec.compiler.frontends.relax.builder import Array, Expr, constant
from edgec.compiler.frontends.relax.converters.registry import CannotConvert, Node, reshaped
from edgec.compiler.kernels.extremes import place_of_extreme

TRANSFORMS = ("NONE", "SOFTMAX", "LOGISTIC", "SOFTMAX_ZERO", "PROBIT")
ZERO = 1e-7  # smaller scores count as absent in SOFTMAX_ZERO


def class_labels(node: Node) -> Array:
    """The labels of a classifier's classes.

    Raises:
        CannotConvert: they are strings (a front end turns those into numbers first).
    """
    ints = node.attrs.get("classlabels_int64s") or node.attrs.get("classlabels_ints")
    if node.attrs.get("classlabels_strings"):
        raise CannotConvert("its labels are texts, and compiled models have outputs of numbers only")
    if not ints:
        raise CannotConvert("it has no class labels")
    return np.array(ints, np.int64)


def pick_label(node: Node, choice: Expr, labels: Array) -> Expr:
    """The label `[rows]` of the chosen class: a class number `[rows]`, or a truth value `[rows, 1]` for class 1."""
    index = node.emit(relax.op.astype(choice, "int64"))
    rows = int(index.ty.shape[0])
    index = reshaped(index, (rows,)) if len(index.ty.shape) == 2 else index
    if np.array_equal(labels, np.arange(len(labels))):
        return index
    return relax.op.take(constant(labels), index, axis=0, mode="clip")


def best_class(node: Node, scores: Expr) -> Expr:
    """The place `[rows]` of each row's largest score; where all are NaN, the first."""
    return node.builder.emit_te(place_of_extreme, scores, 1, keepdims=False, largest=True, last=False)


def post_transform(node: Node, scores: Expr, transform: str) -> Expr:
    """Scores `[rows, classes]` after the transform that the model names.

    Raises:
        CannotConvert: an unknown transform.
    """
    if transform == "NONE":
        return scores
    if transform == "LOGISTIC":
        return relax.op.sigmoid(scores)
    if transform == "SOFTMAX":
        return relax.op.nn.softmax(scores, axis=1)
    if transform == "SOFTMAX_ZERO":
        scores = node.emit(scores)
        absent = relax.op.less_equal(relax.op.abs(scores), constant(ZERO, "float32"))
        shifted = node.emit(scores - relax.op.max(scores, axis=[1], keepdims=True))
        powers = node.emit(relax.op.where(absent, constant(0, "float32"), relax.op.exp(shifted)))
        return powers / relax.op.sum(powers, axis=[1], keepdims=True)
    if transform == "PROBIT":
        return probit(node, scores)
    raise CannotConvert(f"it has the unknown transform {transform!r}")


def probit(node: Node, x: Expr) -> Expr:
    """The quantile of the normal distribution, by Winitzki's approximation (like ONNX Runtime)."""
    a = 0.147
    y = node.emit(x * f32(2) - f32(1))
    log = node.emit(relax.op.log((f32(1) - y) * (f32(1) + y)))
    v = node.emit(f32(2 / (math.pi * a)) + log * f32(0.5))
    size = relax.op.sqrt(relax.op.sqrt(v * v - log * f32(1 / a)) - v)
    sign = relax.op.where(relax.op.less(y, f32(0)), f32(-1), f32(1))
    return sign * size * f32(math.sqrt(2))


def binary_scores(node: Node, score: Expr, transform: str, *, shares: bool) -> Expr:
    """Both classes' scores `[rows, 2]` from the one of class 1 `[rows, 1]`.

    Args:
        shares: the score is a probability (weights are never negative), and the other class gets the complement.
    """
    if transform == "PROBIT":
        raise CannotConvert(
            "PROBIT with a single score for two classes has one output in ONNX Runtime, not two"
        )
    if shares:
        pair = [f32(1) - score, score]
    elif transform == "LOGISTIC":
        pair = [relax.op.sigmoid(f32(0) - score), relax.op.sigmoid(score)]
    else:
        pair = [f32(0) - score, score]
    return relax.op.concat([node.emit(part) for part in pair], axis=1)


def f32(value: float) -> Expr:
    """A float32 constant of rank 0."""
    return constant(value, "float32")
