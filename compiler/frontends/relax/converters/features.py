"""Preparation of features (ai.onnx.ml): scalers, imputers, encoders."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from tvm import relax

from edgec.compiler.frontends.relax.builder import Array, Expr, constant
from edgec.compiler.frontends.relax.converters.class_scores import f32
from edgec.compiler.frontends.relax.converters.registry import ML, CannotConvert, Node, converts, reshaped


def float_input(node: Node, position: int = 0) -> Expr:
    """An input as float32."""
    x = node.input(position)
    return x if node.dtype(position) == "float32" else node.emit(relax.op.astype(x, "float32"))


@converts("Scaler", domain=ML)
def _scaler(node: Node) -> Expr:
    offset = constant(np.array(node.attrs.get("offset") or [0.0], np.float32))
    scale = constant(np.array(node.attrs.get("scale") or [1.0], np.float32))
    return (float_input(node) - offset) * scale


@converts("Normalizer", domain=ML)
def _normalizer(node: Node) -> Expr:
    x = node.emit(float_input(node))
    axis = [node.rank(0) - 1]
    norm = node.attrs.get("norm", "MAX")
    if norm == "MAX":
        size = relax.op.max(x, axis=axis, keepdims=True)
    elif norm == "L1":
        size = relax.op.sum(relax.op.abs(x), axis=axis, keepdims=True)
    elif norm == "L2":
        size = relax.op.sqrt(relax.op.sum(x * x, axis=axis, keepdims=True))
    else:
        raise CannotConvert(f"it has the unknown norm {norm!r}")
    size = node.emit(size)
    return x / relax.op.where(relax.op.equal(size, f32(0)), f32(1), size)


@converts("Imputer", domain=ML)
def _imputer(node: Node) -> Expr:
    x, dtype = node.input(0), node.dtype(0)
    kind = "floats" if dtype == "float32" else "int64s"
    values = node.attrs.get(f"imputed_value_{kind}")
    if not values:
        raise CannotConvert(f"it has no values to fill into {dtype} features")
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
        raise CannotConvert("its categories are texts, and compiled models have inputs of numbers only")
    if not node.attrs.get("zeros", 1):
        raise CannotConvert(
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
    # the position of the first key that matches, or one past the last
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
    raise CannotConvert(
        "it maps from or to texts, and compiled models have inputs and outputs of numbers only"
    )


@converts("ArrayFeatureExtractor", domain=ML)
def _array_feature_extractor(node: Node) -> Expr:
    picked = relax.op.take(node.input(0), reshaped(node.input(1), (-1,)), axis=node.rank(0) - 1, mode="clip")
    if node.rank(0) == 1:  # ONNX Runtime treats a vector as one row
        return reshaped(node.emit(picked), (1, int(np.prod(node.shape(1)))))
    return picked


@converts("FeatureVectorizer", domain=ML)
def _feature_vectorizer(node: Node) -> Expr:
    parts = []
    for position in range(len(node.inputs)):
        shape = node.shape(position)
        part = float_input(node, position)
        parts.append(node.emit(reshaped(part, (1, shape[0]))) if len(shape) == 1 else part)
    return relax.op.concat(parts, axis=1) if len(parts) > 1 else parts[0]
