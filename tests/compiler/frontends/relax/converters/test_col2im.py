"""Columns added up to images, to 1e-6 of their size."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from onnx import helper

from tests.compiler.frontends.relax.converters.evaluate import assert_native, model_of


def test_overlapping_blocks_with_pads_and_strides(tmp_path: Path) -> None:
    x = np.random.default_rng(1).standard_normal((1, 2 * 4, 12)).astype("float32")
    node = helper.make_node("Col2Im", ["x", "image", "block"], ["y"], strides=[1, 2], pads=[0, 1, 0, 1])
    constants = {"image": np.array([4, 6], "int64"), "block": np.array([2, 2], "int64")}
    expected = np.zeros((1, 2, 4, 8), "float32")
    columns = x.reshape(1, 2, 2, 2, 3, 4)
    for i in range(2):
        for j in range(2):
            expected[:, :, i : i + 3, j : j + 8 : 2] += columns[:, :, i, j]
    model = model_of([node], {"x": x}, {"y": "float32"}, constants)
    assert_native(model, {"x": x}, tmp_path, {"y": expected[..., 1:7]}, atol=1e-6)
