"""Sums and products up to each place against numpy, to 1e-5 of their size."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from onnx import helper

from tests.compiler.frontends.relax.converters.evaluate import assert_native, model_of

X = np.random.default_rng(2).standard_normal((2, 5, 3)).astype("float32")


def test_directions_and_what_counts(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("CumSum", ["x", "axis"], ["plain"]),
        helper.make_node("CumSum", ["x", "axis"], ["backwards"], reverse=1),
        helper.make_node("CumSum", ["x", "axis"], ["before"], exclusive=1),
        helper.make_node("CumSum", ["x", "axis"], ["after"], exclusive=1, reverse=1),
    ]
    sums, back = np.cumsum(X, 1), np.cumsum(X[:, ::-1], 1)[:, ::-1]
    expected = {"plain": sums, "backwards": back, "before": sums - X, "after": back - X}
    model = model_of(nodes, {"x": X}, dict.fromkeys(expected, "float32"), {"axis": np.array(-2, "int64")})
    assert_native(model, {"x": X}, tmp_path, expected, atol=1e-5)


def test_products_of_integers_are_exact(tmp_path: Path) -> None:
    x = np.array([[1, 2, 3], [-1, 0, 7]], "int32")
    node = helper.make_node("CumProd", ["x", "axis"], ["y"], exclusive=1)
    model = model_of([node], {"x": x}, {"y": "int32"}, {"axis": np.array(1, "int64")}, opset=26)
    assert_native(model, {"x": x}, tmp_path, {"y": np.array([[1, 1, 2], [1, -1, 0]], "int32")})
