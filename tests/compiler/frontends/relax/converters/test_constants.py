"""What follows from static shapes is a constant, exactly."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from onnx import helper

from tests.compiler.frontends.relax.converters.evaluate import assert_native, model_of


def test_shapes_sizes_and_diagonals(tmp_path: Path) -> None:
    x = np.zeros((2, 3, 4), "float32")
    m = np.zeros((3, 4), "float32")
    nodes = [
        helper.make_node("Add", ["x", "x"], ["xx"]),  # an input of the graph, its use folded or not
        helper.make_node("Shape", ["xx"], ["part"], start=1),
        helper.make_node("Size", ["xx"], ["size"]),
        helper.make_node("EyeLike", ["m"], ["eye"], k=-1),
    ]
    expected = {
        "part": np.array([3, 4], "int64"),
        "size": np.array(24, "int64"),
        "eye": np.eye(3, 4, k=-1, dtype="float32"),
    }
    model = model_of(nodes, {"x": x, "m": m}, {"part": "int64", "size": "int64", "eye": "float32"})
    assert_native(model, {"x": x, "m": m}, tmp_path, expected)
