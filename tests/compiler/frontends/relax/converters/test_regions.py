"""Regions of images against the standard's formula, to 1e-6 of the largest value."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from onnx import helper

from tests.compiler.frontends.relax.converters.evaluate import assert_native, model_of


def test_the_largest_sample_of_each_cell(tmp_path: Path) -> None:
    x = np.random.default_rng(9).random((2, 2, 6, 7)).astype("float32")
    rois = np.array([[0.0, 0.0, 5.0, 4.0], [1.5, 2.0, 6.5, 5.5]], "float32")
    batch = np.array([1, 0], "int64")
    node = helper.make_node(
        "RoiAlign",
        ["x", "rois", "batch"],
        ["y"],
        mode="max",
        output_height=2,
        output_width=3,
        sampling_ratio=2,
        spatial_scale=0.9,
    )
    inputs = {"x": x, "rois": rois, "batch": batch}
    assert_native(model_of([node], inputs, {"y": "float32"}), inputs, tmp_path, atol=1e-6)
