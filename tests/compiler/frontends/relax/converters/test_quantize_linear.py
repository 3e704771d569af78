"""Changes between real numbers and integers, exactly: all scales are powers of two."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from onnx import helper

from tests.compiler.frontends.relax.converters.evaluate import assert_native, model_of

X = np.array([[-3.0, 0.25, 0.75], [1.25, 60.0, -200.0]], "float32")


def test_per_tensor_and_per_axis(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "one", "zero"], ["whole"]),
        helper.make_node("QuantizeLinear", ["x", "rows", "zeros"], ["split"], axis=0),
        helper.make_node("DequantizeLinear", ["whole", "one", "zero"], ["real"]),
    ]
    constants = {
        "one": np.array(0.5, "float32"),
        "zero": np.array(7, "uint8"),
        "rows": np.array([0.25, 2.0], "float32"),
        "zeros": np.array([-1, 5], "int8"),
    }
    whole = np.clip(np.round(X / 0.5) + 7, 0, 255)
    rows = constants["rows"][:, None]
    split = np.clip(np.round(X / rows) + constants["zeros"][:, None], -128, 127)
    expected = {
        "whole": whole.astype("uint8"),
        "split": split.astype("int8"),
        "real": ((whole - 7) * 0.5).astype("float32"),
    }
    model = model_of(nodes, {"x": X}, {"whole": "uint8", "split": "int8", "real": "float32"}, constants)
    assert_native(model, {"x": X}, tmp_path, expected)


def test_weights_in_blocks(tmp_path: Path) -> None:
    w = np.arange(8, dtype="int8").reshape(2, 4) - 4
    scale = np.array([[0.5, 2.0], [1.0, 0.25]], "float32")
    nodes = [
        helper.make_node("DequantizeLinear", ["w", "s"], ["real"], axis=1, block_size=2),
        helper.make_node("MatMul", ["x", "real"], ["y"]),
    ]
    x = np.array([[1.0, 2.0]], "float32")
    model = model_of(nodes, {"x": x}, {"y": "float32"}, {"w": w, "s": scale}, opset=21)
    assert_native(model, {"x": x}, tmp_path, {"y": x @ (w * np.repeat(scale, 2, axis=1))})
