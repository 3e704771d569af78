"""`edgec debug`."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from onnx import helper

from tests.cli.conftest import Edgec
from tests.compiler.onnx_models import model_of, save


def test_a_failing_model_is_reduced_to_the_node_that_fails(edgec: Edgec, folder: Path) -> None:
    nodes = [
        helper.make_node("Relu", ["x"], ["a"], name="before"),
        helper.make_node("UnfoldTensor", ["a"], ["b"], "culprit", domain="com.microsoft", size=4, step=4),
        helper.make_node("Neg", ["b"], ["y"], name="after"),
    ]
    save(model_of(nodes, {"x": [3, 4, 4]}, ["y"]), folder, "failing.onnx")
    done = edgec("debug", "reduce", "failing.onnx", "-o", "tiny.onnx", "--json", cwd=folder)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["nodes"] == ["culprit"]
    assert found["failure"] == "UnsupportedModel"
    with np.load(folder / "tiny.npz") as inputs:
        assert [inputs[name].shape for name in inputs.files] == [(3, 4, 4)]
    fine = edgec("debug", "reduce", "small.onnx", "--input", "x:1x3x12x12", "-o", "no.onnx", cwd=folder)
    assert fine.returncode == 1
    assert "nothing to reduce" in fine.stderr
