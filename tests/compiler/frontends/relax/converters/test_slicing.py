"""Slices, joins, splits and crops, exactly."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from onnx import helper

from tests.compiler.frontends.relax.converters.evaluate import assert_native, model_of

X = np.arange(60, dtype="float32").reshape(3, 4, 5)


def test_slices_forwards_and_backwards(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Slice", ["x", "from", "to", "axes", "steps"], ["y"]),
        helper.make_node("Slice", ["x", "last", "front", "axes", "back"], ["z"]),
    ]
    constants = {
        "from": np.array([1, -3], "int64"),
        "to": np.array([100, -1], "int64"),
        "axes": np.array([0, -1], "int64"),
        "steps": np.array([1, 2], "int64"),
        "last": np.array([-1, 4], "int64"),
        "front": np.array([-100, 0], "int64"),
        "back": np.array([-1, -2], "int64"),
    }
    expected = {"y": X[1:, :, -3:-1:2], "z": X[::-1, :, 4:0:-2]}
    model = model_of(nodes, {"x": X}, dict.fromkeys(expected, "float32"), constants)
    assert_native(model, {"x": X}, tmp_path, expected)


def test_splits_of_uneven_parts_and_joins(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Split", ["x"], ["a", "b"], axis=2, num_outputs=2),
        helper.make_node("Split", ["x", "sizes"], ["c", "d"], axis=1),
        helper.make_node("Concat", ["b", "a"], ["e"], axis=-1),
    ]
    expected = {
        "a": X[..., :3],
        "b": X[..., 3:],
        "c": X[:, :1],
        "d": X[:, 1:],
        "e": np.concatenate([X[..., 3:], X[..., :3]], axis=2),
    }
    constants = {"sizes": np.array([1, 3], "int64")}
    model = model_of(nodes, {"x": X}, dict.fromkeys(expected, "float32"), constants)
    assert_native(model, {"x": X}, tmp_path, expected)


def test_a_crop_and_a_pad_around_the_centre(tmp_path: Path) -> None:
    node = helper.make_node("CenterCropPad", ["x", "shape"], ["y"], axes=[1, 2])
    expected = np.zeros((3, 2, 8), "float32")
    expected[:, :, 1:6] = X[:, 1:3]
    model = model_of([node], {"x": X}, {"y": "float32"}, {"shape": np.array([2, 8], "int64")})
    assert_native(model, {"x": X}, tmp_path, {"y": expected})
