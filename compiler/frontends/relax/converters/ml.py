"""Classical machine learning (ai.onnx.ml) but for its trees: linear models, scalers, encoders.

What the standard leaves open is done as ONNX Runtime does it, which the exporters of scikit-learn and others
are tested with.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from tvm import relax

from edgec.compiler.frontends.relax.builder import Array, Expr, constant
from edgec.compiler.frontends.relax.converters.registry import ML, Node, Refusal, converts, reshaped

TRANSFORMS = ("NONE", "SOFTMAX", "LOGISTIC", "SOFTMAX_ZERO", "PROBIT")
ZERO = 1e-7  # below it, SOFTMAX_ZERO takes a score for an absent one


def class_labels(node: Node) -> Array:
    """The labels of a classifier's classes.

    Raises:
        Refusal: they are texts (a front end turns those into numbers first).
    """
    ints = node.attrs.get("classlabels_int64s") or node.attrs.get("classlabels_ints")
    if node.attrs.get("classlabels_strings"):
        raise Refusal("its labels are texts, and compiled models have outputs of numbers only")
    if not ints:
        raise Refusal("it has no class labels")
    return np.array(ints, np.int64)


def pick_label(node: Node, choice: Expr, labels: Array) -> Expr:
    """The label ``[rows]`` of the chosen class: a class number ``[rows]`` or a yes ``[rows, 1]``."""
    index = node.emit(relax.op.astype(choice, "int64"))
    rows = int(index.ty.shape[0])
    index = reshaped(index, (rows,)) if len(index.ty.shape) == 2 else index
    if np.array_equal(labels, np.arange(len(labels))):
        return index
    return relax.op.take(constant(labels), index, axis=0, mode="clip")


def post_transform(node: Node, scores: Expr, transform: str) -> Expr:
    """Scores ``[rows, classes]`` as the model wants to have them.

    Raises:
        Refusal: an unknown transform.
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
    raise Refusal(f"it has the unknown transform {transform!r}")


def probit(node: Node, x: Expr) -> Expr:
    """The quantile of the normal distribution, by Winitzki's approximation (as ONNX Runtime has it)."""
    a = 0.147
    y = node.emit(x * _f(2) - _f(1))
    log = node.emit(relax.op.log((_f(1) - y) * (_f(1) + y)))
    v = node.emit(_f(2 / (math.pi * a)) + log * _f(0.5))
    size = relax.op.sqrt(relax.op.sqrt(v * v - log * _f(1 / a)) - v)
    sign = relax.op.where(relax.op.less(y, _f(0)), _f(-1), _f(1))
    return sign * size * _f(math.sqrt(2))


def binary_scores(node: Node, score: Expr, transform: str, *, shares: bool) -> Expr:
    """Both classes' scores ``[rows, 2]`` from the one of class 1 ``[rows, 1]``.

    Args:
        shares: the score is a share of 1 (weights are never negative), so the other class has the rest.
    """
    if transform == "PROBIT":
        raise Refusal("PROBIT with a single score for two classes has one output in ONNX Runtime, not two")
    if shares:
        pair = [_f(1) - score, score]
    elif transform == "LOGISTIC":
        pair = [relax.op.sigmoid(_f(0) - score), relax.op.sigmoid(score)]
    else:
        pair = [_f(0) - score, score]
    return relax.op.concat([node.emit(part) for part in pair], axis=1)


def _f(value: float) -> Expr:
    return constant(value, "float32")


def _float_input(node: Node, position: int = 0) -> Expr:
    x = node.input(position)
    return x if node.dtype(position) == "float32" else node.emit(relax.op.astype(x, "float32"))


def _rows(node: Node) -> Expr:
    """The input as ``[rows, features]`` fp32; a vector is one row."""
    x = _float_input(node)
    shape = node.shape(0)
    if len(shape) == 1:
        return node.emit(reshaped(x, (1, shape[0])))
    if len(shape) != 2:
        raise Refusal(f"its input has rank {len(shape)}, and rows of features are needed")
    return x


def _linear(node: Node, x: Expr, outputs: int) -> Expr:
    weights = np.array(node.attrs["coefficients"], np.float32)
    features = int(x.ty.shape[1])
    if weights.size != outputs * features:
        raise Refusal(f"it has {weights.size} coefficients for {outputs} outputs of {features} features")
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
        label = pick_label(node, relax.op.greater(scores, _f(0)), labels)
        return [label, binary_scores(node, scores, transform, shares=False)]
    label = pick_label(node, relax.op.argmax(scores, axis=1), labels)
    return [label, post_transform(node, scores, transform)]


@converts("Scaler", domain=ML)
def _scaler(node: Node) -> Expr:
    offset = constant(np.array(node.attrs.get("offset") or [0.0], np.float32))
    scale = constant(np.array(node.attrs.get("scale") or [1.0], np.float32))
    return (_float_input(node) - offset) * scale


@converts("Normalizer", domain=ML)
def _normalizer(node: Node) -> Expr:
    x = node.emit(_float_input(node))
    axis = [len(node.shape(0)) - 1]
    norm = node.attrs.get("norm", "MAX")
    if norm == "MAX":
        size = relax.op.max(x, axis=axis, keepdims=True)
    elif norm == "L1":
        size = relax.op.sum(relax.op.abs(x), axis=axis, keepdims=True)
    elif norm == "L2":
        size = relax.op.sqrt(relax.op.sum(x * x, axis=axis, keepdims=True))
    else:
        raise Refusal(f"it has the unknown norm {norm!r}")
    size = node.emit(size)
    return x / relax.op.where(relax.op.equal(size, _f(0)), _f(1), size)


@converts("Imputer", domain=ML)
def _imputer(node: Node) -> Expr:
    x, dtype = node.input(0), node.dtype(0)
    kind = "floats" if dtype == "float32" else "int64s"
    values = node.attrs.get(f"imputed_value_{kind}")
    if not values:
        raise Refusal(f"it has no values to put into {dtype} features")
    replaced = node.attrs.get(f"replaced_value_{kind[:-1]}", 0)
    if isinstance(replaced, float) and math.isnan(replaced):
        missing = relax.op.isnan(x)
    else:
        missing = relax.op.equal(x, constant(np.array(replaced, dtype)))
    return relax.op.where(missing, constant(np.array(values, dtype)), x)


@converts("Binarizer", domain=ML)
def _binarizer(node: Node) -> Expr:
    x, dtype = node.input(0), node.dtype(0)
    threshold = constant(np.array(node.attrs.get("threshold", 0.0)).astype(dtype))
    return relax.op.astype(relax.op.greater(x, threshold), dtype)


@converts("OneHotEncoder", domain=ML)
def _one_hot_encoder(node: Node) -> Expr:
    categories = node.attrs.get("cats_int64s")
    if not categories:
        raise Refusal("its categories are texts, and compiled models have inputs of numbers only")
    if not node.attrs.get("zeros", 1):
        raise Refusal(
            "it fails on unknown categories (zeros=0), which compiled code cannot; export it with zeros=1"
        )
    shape = node.shape(0)
    x = relax.op.astype(node.input(0), "int64")
    column = node.emit(reshaped(node.emit(x), (*shape, 1)))
    return relax.op.astype(relax.op.equal(column, constant(np.array(categories, np.int64))), "float32")


@converts("LabelEncoder", domain=ML)
def _label_encoder(node: Node) -> Expr:
    keys, values, default = _mapping(node)
    x = node.input(0)
    if node.dtype(0) != str(keys.dtype):
        x = node.emit(relax.op.astype(x, str(keys.dtype)))
    column = node.emit(reshaped(x, (*node.shape(0), 1)))
    hit = relax.op.equal(column, constant(keys))
    if keys.dtype == np.float32 and np.isnan(keys).any():
        both = relax.op.logical_and(relax.op.isnan(column), constant(np.isnan(keys)))
        hit = node.emit(relax.op.logical_or(hit, both))
    hit = node.emit(hit)
    # the first key that fits: its place, or one after the last
    places = constant(np.arange(len(keys), dtype=np.int64))
    place = relax.op.min(relax.op.where(hit, places, constant(len(keys), "int64")), axis=[-1])
    table = constant(np.append(values, np.array(default, values.dtype)))
    return relax.op.take(table, node.emit(place), axis=0, mode="clip")


def _mapping(node: Node) -> tuple[Array, Array, float]:
    """A label encoder's keys, values and default."""
    kinds: Sequence[tuple[str, type]] = (("int64s", np.int64), ("floats", np.float32))
    given_keys: list[Array] = [
        np.array(node.attrs[f"keys_{name}"], dtype) for name, dtype in kinds if node.attrs.get(f"keys_{name}")
    ]
    keys: Array | None = given_keys[0] if given_keys else None
    for name, dtype in kinds:
        given = node.attrs.get(f"values_{name}")
        if given and keys is not None and len(given) == len(keys):
            default = node.attrs.get(f"default_{name[:-1]}", -1 if dtype is np.int64 else -0.0)
            return keys, np.array(given, dtype), default
    raise Refusal("it maps from or to texts, and compiled models have inputs and outputs of numbers only")


@converts("ArrayFeatureExtractor", domain=ML)
def _array_feature_extractor(node: Node) -> Expr:
    picked = relax.op.take(
        node.input(0), reshaped(node.input(1), (-1,)), axis=len(node.shape(0)) - 1, mode="clip"
    )
    if len(node.shape(0)) == 1:  # ONNX Runtime makes one row of a vector
        return reshaped(node.emit(picked), (1, int(np.prod(node.shape(1)))))
    return picked


@converts("FeatureVectorizer", domain=ML)
def _feature_vectorizer(node: Node) -> Expr:
    parts = []
    for position in range(len(node.inputs)):
        shape = node.shape(position)
        part = _float_input(node, position)
        parts.append(node.emit(reshaped(part, (1, shape[0]))) if len(shape) == 1 else part)
    return relax.op.concat(parts, axis=1) if len(parts) > 1 else parts[0]
