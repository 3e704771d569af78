"""`edgec inspect`."""

from __future__ import annotations

import json
from pathlib import Path

from tests.cli.conftest import Edgec


def test_inspect_a_model(edgec: Edgec, folder: Path) -> None:
    facts = json.loads(edgec("inspect", "small.onnx", "--input", "x:1x3x12x12", "--json", cwd=folder).stdout)
    assert facts["operators"] == {"Conv": 1, "Relu": 1}
    assert facts["parameters"] == 8 * 27
    assert facts["multiply_adds"] == 8 * 27 * 100
    assert facts["unsupported"] == []
    free = edgec("inspect", "small.onnx", cwd=folder)
    assert free.returncode == 0
    assert "--input x:nx3xhxw" in free.stdout


def test_inspect_a_model_that_is_not_onnx(edgec: Edgec, folder: Path, shared_data: Path) -> None:
    trees = edgec(
        "inspect", shared_data / "xgboost" / "xg_agaricus.model", "--input", "input:1x127", cwd=folder
    )
    assert trees.returncode == 0, trees.stderr
    assert "TreeEnsemble" in trees.stdout


def test_inspect_an_artifact(edgec: Edgec, folder: Path, artifact: Path) -> None:
    shown = json.loads(edgec("inspect", artifact, "--json", cwd=folder).stdout)
    assert shown["evidence"]["verified"]
    assert shown["config"]["inputs"][0]["shape"] == [1, 3, 12, 12]
    text = edgec("inspect", artifact, cwd=folder).stdout
    assert shown["digest"] in text
    assert "verified" in text
    certificate = shown["evidence"]["certificate"]
    assert certificate["verdict"] in ("faster", "slower")
    assert certificate["low"] <= certificate["ratio"] <= certificate["high"]
    assert any(layer["floor_ms"] > 0 for layer in certificate["layers"])
    assert f"{certificate['ratio']:.2f} times its speed" in text


def test_an_artifact_is_inspected_without_the_compiler(edgec: Edgec, artifact: Path) -> None:
    whole, bare = (edgec("inspect", artifact, "--json", without=gone) for gone in ((), ("compiler", "fleet")))
    assert bare.returncode == 0, bare.stderr
    assert bare.stdout == whole.stdout
