"""The largest elements in order, exactly."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from onnx import helper

from tests.compiler.frontends.relax.converters.evaluate import assert_native, model_of


def test_large_unsigned_integers_keep_their_order(tmp_path: Path) -> None:
    x = np.array([[1, 2**63 + 5, 7, 2**63, 0]], "uint64")
    node = helper.make_node("TopK", ["x", "k"], ["values", "places"])
    model = model_of([node], {"x": x}, {"values": "uint64", "places": "int64"}, {"k": np.array([3], "int64")})
    expected = {"values": np.array([[2**63 + 5, 2**63, 7]], "uint64"), "places": np.array([[1, 3, 2]])}
    assert_native(model, {"x": x}, tmp_path, expected)


def test_the_smallest_of_real_numbers(tmp_path: Path) -> None:
    x = np.array([[3.0, -1.0], [0.5, 2.0], [-2.0, 9.0]], "float32")
    node = helper.make_node("TopK", ["x", "k"], ["values", "places"], axis=0, largest=0)
    model = model_of(
        [node], {"x": x}, {"values": "float32", "places": "int64"}, {"k": np.array([2], "int64")}
    )
    places = np.argsort(x, axis=0)[:2]
    assert_native(model, {"x": x}, tmp_path, {"values": np.take_along_axis(x, places, 0), "places": places})
