"""Elements picked and placed by index, exactly."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from onnx import helper

from tests.compiler.frontends.relax.converters.evaluate import assert_native, model_of

X = np.random.default_rng(3).standard_normal((4, 5, 3)).astype("float32")


def test_indices_from_the_end_constant_and_computed(tmp_path: Path) -> None:
    at = np.array([[0, -1], [2, -5]], "int64")
    nodes = [
        helper.make_node("Gather", ["x", "known"], ["a"], axis=1),
        helper.make_node("Gather", ["x", "at"], ["b"], axis=1),
        helper.make_node("Gather", ["x", "one"], ["c"], axis=0),
    ]
    expected = {"a": X[:, at], "b": X[:, at], "c": X[-2]}
    constants = {"known": at, "one": np.array(-2, "int64")}
    model = model_of(nodes, {"x": X, "at": at}, dict.fromkeys(expected, "float32"), constants)
    assert_native(model, {"x": X, "at": at}, tmp_path, expected)


def test_an_index_out_of_range_reaches_no_other_memory(tmp_path: Path) -> None:
    """At run time: a read takes the nearest element of the axis, a write is left out."""
    far = np.array([7, -9, 1 << 40, -(1 << 40)], "int64")
    rows = np.broadcast_to(far[:, None, None], (4, 1, 1)).copy()
    updates = np.ones((4, 1, 1), "float32")
    nodes = [
        helper.make_node("Gather", ["x", "far"], ["a"], axis=0),
        helper.make_node("GatherElements", ["x", "rows"], ["b"], axis=0),
        helper.make_node("ScatterElements", ["x", "rows", "updates"], ["c"], axis=0),
        helper.make_node("ScatterND", ["x", "points", "values"], ["d"]),
    ]
    inputs = {"x": X, "far": far, "rows": rows, "updates": updates}
    inputs |= {"points": far[:, None], "values": np.ones((4, 5, 3), "float32")}
    nearest = X[[3, 0, 3, 0]]
    expected = {"a": nearest, "b": nearest[:, :1, :1], "c": X, "d": X}
    assert_native(model_of(nodes, inputs, dict.fromkeys(expected, "float32")), inputs, tmp_path, expected)


def test_sequences_reversed_each_to_its_length(tmp_path: Path) -> None:
    lengths = np.array([1, 4, 2], "int64")
    node = helper.make_node("ReverseSequence", ["x", "n"], ["y"], time_axis=1, batch_axis=2)
    expected = X.copy()
    for i, n in enumerate(lengths):
        expected[:, :n, i] = X[:, :n, i][:, ::-1]
    model = model_of([node], {"x": X, "n": lengths}, {"y": "float32"})
    assert_native(model, {"x": X, "n": lengths}, tmp_path, {"y": expected})


def test_one_hot_along_an_axis_with_values_of_its_own(tmp_path: Path) -> None:
    x = np.array([[0, -1], [3, 2]], "int64")
    node = helper.make_node("OneHot", ["x", "depth", "values"], ["y"], axis=1)
    constants = {"depth": np.array([4], "int64"), "values": np.array([-1.0, 5.0], "float32")}
    expected = np.full((2, 4, 2), -1.0, "float32")
    for row, column in np.ndindex(2, 2):
        expected[row, x[row, column] % 4, column] = 5.0
    model = model_of([node], {"x": x}, {"y": "float32"}, constants)
    assert_native(model, {"x": x}, tmp_path, {"y": expected})


def test_a_cache_is_written_in_a_circle(tmp_path: Path) -> None:
    past, new = np.zeros((2, 1, 4, 2), "float32"), np.ones((2, 1, 2, 2), "float32")
    begin = np.array([1, 3], "int64")
    node = helper.make_node("TensorScatter", ["past", "new", "at"], ["y"], mode="circular")
    expected = past.copy()
    expected[0, :, [1, 2]] = expected[1, :, [3, 0]] = 1
    inputs = {"past": past, "new": new, "at": begin}
    model = model_of([node], inputs, {"y": "float32"}, opset=24)
    assert_native(model, inputs, tmp_path, {"y": expected})
