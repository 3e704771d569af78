"""`edgec verify`."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from onnx import helper

from tests.cli.conftest import Edgec
from tests.compiler.onnx_models import model_of, save


def test_verify_fails_on_another_model(edgec: Edgec, folder: Path, artifact: Path) -> None:
    nodes = [helper.make_node("Conv", ["x", "w"], ["c"]), helper.make_node("Relu", ["c"], ["y"])]
    other = model_of(nodes, {"x": [1, 3, 12, 12]}, ["y"], {"w": np.ones((8, 3, 3, 3), "float32")})
    save(other, folder, "other.onnx")
    done = edgec("verify", artifact, "other.onnx", cwd=folder)
    assert done.returncode == 1
    assert "a different file" in done.stdout


def test_verify_by_layers_names_every_value(edgec: Edgec, folder: Path, artifact: Path) -> None:
    done = edgec("verify", artifact, "small.onnx", "--layers", "--json", cwd=folder)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["first"] is None
    assert [layer["op_type"] for layer in found["layers"]] == ["Conv", "Relu"]
    assert [layer["node"] for layer in found["layers"]] == ["first", "second"]


def test_verify_an_artifact_against_its_model(edgec: Edgec, folder: Path, artifact: Path) -> None:
    proof = edgec("verify", artifact, "small.onnx", "--json", cwd=folder)
    assert proof.returncode == 0, proof.stderr
    assert json.loads(proof.stdout)["same_source"]


def test_inputs_of_other_shapes_are_refused(
    edgec: Edgec, folder: Path, artifact: Path, tmp_path: Path
) -> None:
    np.savez(tmp_path / "other.npz", x=np.zeros((1, 3, 5, 5), np.float32))
    done = edgec("verify", artifact, "small.onnx", "--inputs", tmp_path / "other.npz", cwd=folder)
    assert done.returncode not in (0, None)
    assert "[1, 3, 12, 12]" in done.stderr.replace("1x3x12x12", "[1, 3, 12, 12]")
