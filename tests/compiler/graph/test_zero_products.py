"""Products with a constant zero, and quotients of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from onnx import helper

from tests.compiler.frontends.relax.converters.evaluate import assert_native, model_of

X = np.array([1, np.nan, np.inf, -np.inf, 0, -2], "float32")


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("shape", [(6,), (2, 3)])
def test_nan_and_infinities_survive_a_zero(shape: tuple[int, ...], tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Mul", ["x", "zero"], ["a"]),
        helper.make_node("Mul", ["zero", "x"], ["b"]),
        helper.make_node("Div", ["zero", "x"], ["c"]),
        helper.make_node("Div", ["x", "zero"], ["d"]),
        helper.make_node("Relu", ["x"], ["r"]),
        helper.make_node("Mul", ["r", "zero"], ["e"]),
    ]
    x = X.reshape(shape)
    model = model_of(nodes, {"x": x}, dict.fromkeys("abcde", "float32"), {"zero": np.float32(0)})
    assert_native(model, {"x": x}, tmp_path)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("value", X)
def test_of_a_scalar(value: float, tmp_path: Path) -> None:
    nodes = [helper.make_node("Mul", ["x", "zero"], ["y"])]
    x = np.float32(value).reshape(())
    assert_native(model_of(nodes, {"x": x}, {"y": "float32"}, {"zero": np.float32(0)}), {"x": x}, tmp_path)
