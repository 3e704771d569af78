"""Shifts and reinterpreted bits, exactly."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from onnx import TensorProto, helper

from tests.compiler.frontends.relax.converters.evaluate import assert_native, model_of


def test_shifts_by_more_than_the_width(tmp_path: Path) -> None:
    x, by = np.array([1, 200, 255, 255], "uint8"), np.array([3, 1, 8, 9], "uint8")
    nodes = [
        helper.make_node("BitShift", ["x", "n"], ["left"], direction="LEFT"),
        helper.make_node("BitShift", ["x", "n"], ["right"], direction="RIGHT"),
    ]
    expected = {
        "left": np.array([8, 144, 0, 0], "uint8"),
        "right": np.array([0, 100, 0, 0], "uint8"),
    }
    model = model_of(nodes, {"x": x, "n": by}, dict.fromkeys(expected, "uint8"))
    assert_native(model, {"x": x, "n": by}, tmp_path, expected)


def test_the_same_bits_as_another_type(tmp_path: Path) -> None:
    for shape in ((2, 3), (1,)):  # one element takes a way of its own
        x = np.linspace(-2, 3, int(np.prod(shape)), dtype="float32").reshape(shape)
        node = helper.make_node("BitCast", ["x"], ["y"], to=TensorProto.INT32)
        model = model_of([node], {"x": x}, {"y": "int32"}, opset=26)
        assert_native(model, {"x": x}, tmp_path, {"y": x.view("int32")})
