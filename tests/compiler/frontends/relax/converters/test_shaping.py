"""The same elements in another shape, order or number, exactly."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from onnx import helper

from tests.compiler.frontends.relax.converters.evaluate import assert_native, model_of

X = np.arange(24, dtype="float32").reshape(2, 1, 3, 4)


def test_shapes_and_orders(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Reshape", ["x", "rest"], ["reshape"]),
        helper.make_node("Flatten", ["x"], ["flatten"], axis=-2),
        helper.make_node("Squeeze", ["x", "one"], ["squeeze"]),
        helper.make_node("Unsqueeze", ["x", "ends"], ["unsqueeze"]),
        helper.make_node("Transpose", ["x"], ["reverse"]),
        helper.make_node("Transpose", ["x"], ["moved"], perm=[1, 0, 2, 3]),
        helper.make_node("Expand", ["x", "wide"], ["expand"]),
        helper.make_node("Tile", ["x", "times"], ["tile"]),
    ]
    constants = {
        "rest": np.array([0, -1], "int64"),
        "one": np.array([1], "int64"),
        "ends": np.array([0, -1], "int64"),
        "wide": np.array([2, 5, 1, 1], "int64"),
        "times": np.array([1, 2, 3, 2], "int64"),
    }
    expected = {
        "reshape": X.reshape(2, 12),
        "flatten": X.reshape(2, 12),
        "squeeze": X[:, 0],
        "unsqueeze": X[None, ..., None],
        "reverse": X.T,
        "moved": X.transpose(1, 0, 2, 3),
        "expand": np.broadcast_to(X, (2, 5, 3, 4)),
        "tile": np.tile(X, (1, 2, 3, 2)),
    }
    model = model_of(nodes, {"x": X}, dict.fromkeys(expected, "float32"), constants)
    assert_native(model, {"x": X}, tmp_path, expected)


def test_space_to_depth(tmp_path: Path) -> None:
    x = np.arange(32, dtype="float32").reshape(1, 2, 4, 4)
    node = helper.make_node("SpaceToDepth", ["x"], ["y"], blocksize=2)
    blocks = x.reshape(1, 2, 2, 2, 2, 2)  # [n, c, rows, down, columns, along]
    expected = blocks.transpose(0, 3, 5, 1, 2, 4).reshape(1, 8, 2, 2)
    model = model_of([node], {"x": x}, {"y": "float32"})
    assert_native(model, {"x": x}, tmp_path, {"y": expected})
