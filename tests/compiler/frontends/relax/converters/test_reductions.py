"""Extremes along axes, exactly; infinities included."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from onnx import helper

from tests.compiler.frontends.relax.converters.evaluate import assert_native, model_of

X = np.array([[[-np.inf, -np.inf], [1.0, 2.0]], [[3.0, -1.0], [0.0, np.inf]]], "float32")


def test_rows_of_infinities_stay_infinite(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("ReduceMax", ["x", "last"], ["largest"], keepdims=0),
        helper.make_node("ReduceMin", ["x", "outer"], ["smallest"]),
        helper.make_node("ReduceMax", ["x"], ["all"], keepdims=0),
        helper.make_node("ReduceMax", ["x"], ["none"], noop_with_empty_axes=1),
    ]
    expected = {
        "largest": X.max(axis=2),
        "smallest": X.min(axis=(0, 1), keepdims=True),
        "all": X.max(),
        "none": X,
    }
    expected = {name: np.asarray(value) for name, value in expected.items()}
    constants = {"last": np.array([-1], "int64"), "outer": np.array([0, 1], "int64")}
    model = model_of(nodes, {"x": X}, dict.fromkeys(expected, "float32"), constants)
    assert_native(model, {"x": X}, tmp_path, expected)


def test_whether_any_or_all_are_true(tmp_path: Path) -> None:
    x = np.array([[True, False], [False, False]])
    nodes = [
        helper.make_node("ReduceMax", ["x", "rows"], ["any"], keepdims=0),
        helper.make_node("ReduceMin", ["x", "rows"], ["all"], keepdims=0),
    ]
    model = model_of(
        nodes, {"x": x}, {"any": "bool", "all": "bool"}, {"rows": np.array([1], "int64")}, opset=20
    )
    assert_native(model, {"x": x}, tmp_path, {"any": x.any(axis=1), "all": x.all(axis=1)})


def test_sums_of_exponentials_that_overflow_or_vanish(tmp_path: Path) -> None:
    x = np.array([[1000, 1000.5], [-np.inf, -np.inf], [np.inf, 0], [np.nan, 0], [-2000, -np.inf]], "float32")
    nodes = [
        helper.make_node("ReduceLogSumExp", ["x", "rows"], ["each"]),
        helper.make_node("ReduceLogSumExp", ["x", "rows"], ["flat"], keepdims=0),
        helper.make_node("ReduceLogSumExp", ["x", "none"], ["same"], noop_with_empty_axes=1),
    ]
    constants = {"rows": np.array([-1], "int64"), "none": np.zeros(0, "int64")}
    model = model_of(nodes, {"x": x}, dict.fromkeys(("each", "flat", "same"), "float32"), constants)
    with np.errstate(invalid="ignore"):
        each = np.logaddexp.reduce(x.astype("float64"), axis=1, keepdims=True).astype("float32")
    assert_native(model, {"x": x}, tmp_path, {"each": each, "flat": each[:, 0], "same": x}, rtol=1e-6)


def test_places_of_extremes_in_as_many_rows_as_lanes(tmp_path: Path) -> None:
    """Rows whose number vectors divide: each has its own place."""
    x = np.random.default_rng(0).normal(size=(1, 64, 15)).astype("float32")
    nodes = [
        helper.make_node("ArgMax", ["x"], ["last"], axis=2, keepdims=0),
        helper.make_node("ArgMin", ["x"], ["rows"], axis=0, keepdims=0),
    ]
    expected = {"last": x.argmax(2), "rows": x.argmin(0)}
    model = model_of(nodes, {"x": x}, dict.fromkeys(expected, "int64"))
    assert_native(model, {"x": x}, tmp_path, expected)
