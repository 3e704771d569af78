"""Operators that return their input, exactly."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from onnx import helper

from tests.compiler.frontends.relax.converters.evaluate import assert_native, model_of


def test_a_dropout_at_inference_and_its_mask(tmp_path: Path) -> None:
    x = np.array([1.0, -2.0, 3.0], "float32")
    nodes = [
        helper.make_node("Dropout", ["x"], ["y", "mask"]),
        helper.make_node("Identity", ["y"], ["z"]),
    ]
    model = model_of(nodes, {"x": x}, {"z": "float32", "mask": "bool"})
    assert_native(model, {"x": x}, tmp_path, {"z": x, "mask": np.ones(3, bool)})
