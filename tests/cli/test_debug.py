"""`edgec debug`."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from onnx import helper

from tests.cli.conftest import Edgec
from tests.compiler.onnx_models import model_of, save


def test_a_refused_model_is_reduced_to_the_node_that_is_refused(edgec: Edgec, folder: Path) -> None:
    nodes = [
        helper.make_node("Relu", ["x"], ["a"], name="before"),
        helper.make_node("Mystery", ["a"], ["b"], name="culprit", domain="own"),
        helper.make_node("Neg", ["b"], ["y"], name="after"),
    ]
    model = model_of(nodes, {"x": [3, 40, 40]}, ["y"])
    model.opset_import.append(helper.make_opsetid("own", 1))
    save(model, folder, "failing.onnx")
    done = edgec("debug", "reduce", "failing.onnx", "-o", "tiny.onnx", "--json", cwd=folder)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["nodes"] == ["culprit"]
    assert found["failure"] == "UnsupportedModel"
    assert found["bytes"] < 1000
    fine = edgec("debug", "reduce", "small.onnx", "--input", "x:1x3x12x12", "-o", "no.onnx", cwd=folder)
    assert fine.returncode == 1
    assert "nothing to reduce" in fine.stderr


def test_a_model_that_differs_is_reduced_with_its_sizes_weights_and_inputs(
    edgec: Edgec, folder: Path
) -> None:
    """No float32 sum is right to the last place, and a budget of nothing refuses it."""
    rng = np.random.default_rng(0)
    weights = {"w": rng.standard_normal((16, 8, 3, 3)).astype("float32")}
    nodes = [
        helper.make_node("Relu", ["x"], ["a"], name="before"),
        helper.make_node("Conv", ["a", "w"], ["b"], name="sums"),
        helper.make_node("MaxPool", ["b"], ["y"], name="after", kernel_shape=[2, 2]),
    ]
    save(model_of(nodes, {"x": [1, 8, 12, 12]}, ["y"], weights), folder, "sums.onnx")
    done = edgec("debug", "reduce", "sums.onnx", "--budget", "1e-9", "-o", "cut.onnx", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert "nodes    sums" in done.stdout
    assert "again    edgec debug reduce cut.onnx --values cut.npz --budget=1e-09\n" in done.stdout
    assert (folder / "cut.onnx").stat().st_size + (folder / "cut.npz").stat().st_size < 3000
    again = edgec("compile", "cut.onnx", "--budget", "1e-9", "--verify-with", "cut.npz", cwd=folder)
    assert again.returncode == 1
    assert "does not match" in again.stderr
