"""A network is compiled once into a folder, with what its measurement needs; then every side can run it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from onnx import helper

from edgec.benchmarks.networks import worker
from edgec.benchmarks.networks.catalogue import Network
from edgec.benchmarks.networks.compiled import Compiled, compile_network
from edgec.compiler.options import CompileOptions
from edgec.targets import detect
from tests.compiler.small_models import model_of, save

OPTIONS = CompileOptions(tune="none", threads=1, verify=False)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("compiled")


@pytest.fixture(scope="module")
def network(folder: Path) -> Network:
    """`relu(x)` of 16 numbers."""
    model = model_of([helper.make_node("Relu", ["x"], ["y"])], {"x": [1, 16]}, ["y"])
    return Network("small", "real", save(model, folder))


@pytest.fixture(scope="module")
def made(network: Network, folder: Path) -> Compiled:
    return compile_network(network, detect(), OPTIONS, folder)


def test_a_compiled_network_is_found_again(network: Network, made: Compiled, folder: Path) -> None:
    assert (made.failure, made.tune, made.quantised) == ("", "none", False)
    assert Compiled.of(folder, "small", 1) == made
    before = made.artifact.stat().st_mtime_ns
    assert compile_network(network, detect(), OPTIONS, folder) == made
    assert made.artifact.stat().st_mtime_ns == before
    assert Compiled.of(folder, "small", 2).tune == ""
    with np.load(made.inputs) as inputs:
        assert {name: inputs[name].shape for name in inputs.files} == {"x": (1, 16)}


def test_a_failure_is_recorded_and_not_tried_again(tmp_path: Path) -> None:
    path = tmp_path / "broken.onnx"
    path.write_bytes(b"no model")
    broken = compile_network(Network("broken", "real", path), detect(), OPTIONS, tmp_path)
    assert "broken.onnx" in broken.failure
    path.unlink()
    assert compile_network(Network("broken", "real", path), detect(), OPTIONS, tmp_path) == broken


def test_sides_are_timed_and_compared(
    made: Compiled, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    job = {
        "inputs": str(made.inputs), "artifact": str(made.artifact), "model": str(made.reference), "threads": 1,
        "runs": 3, "limit_s": 0.01, "sides": ["edgec", "onnxruntime"], "kind": "latency",
    }  # fmt: skip
    monkeypatch.setattr("sys.argv", ["worker", json.dumps(job)])
    worker.main()
    answer = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert answer["error"] == 0.0
    assert {side: times["runs"] >= 3 for side, times in answer["latency"].items()} == {
        "edgec": True, "onnxruntime": True,
    }  # fmt: skip


def test_a_wrong_result_is_an_error(made: Compiled, tmp_path: Path) -> None:
    model = model_of([helper.make_node("Neg", ["x"], ["y"])], {"x": [1, 16]}, ["y"])
    job = {
        "inputs": str(made.inputs), "artifact": str(made.artifact), "model": str(save(model, tmp_path)), "threads": 1,
        "runs": 1, "limit_s": 0.01, "sides": ["edgec", "onnxruntime"],
    }  # fmt: skip
    assert worker.latency(job)["error"] > 0.5
