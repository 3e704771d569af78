"""Models for which ONNX Runtime is no reference."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from onnx import helper

from edgec.compiler.frontends import load_source
from edgec.compiler.frontends.onnx.reference_evaluator import Standard
from edgec.compiler.options import CompileOptions
from tests.compiler.frontends.relax.converters.evaluate import model_of
from tests.compiler.onnx_models import save


@pytest.mark.parametrize(
    ("mode", "padding", "deviates"), [("cubic", "border", True), ("cubic", "zeros", False)]
)
def test_the_evaluator_stands_in_for_onnxruntime(
    mode: str, padding: str, deviates: bool, tmp_path: Path
) -> None:
    node = helper.make_node("GridSample", ["x", "grid"], ["y"], mode=mode, padding_mode=padding)
    inputs = {"x": np.ones((1, 1, 4, 4), "float32"), "grid": np.zeros((1, 2, 2, 2), "float32")}
    source = load_source(save(model_of([node], inputs, {"y": "float32"}), tmp_path), CompileOptions())
    assert isinstance(source.original, Standard) == deviates
