"""`edgec` with a model that remembers: found, compiled, inspected, run in sequence, verified and timed."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from onnx import helper

from tests.cli.conftest import Edgec
from tests.compiler.onnx_models import model_of, save


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, edgec: Edgec) -> Path:
    """A folder with `sum.onnx`, whose output is the sum of all its inputs so far, and `sum.edge`."""
    folder = tmp_path_factory.mktemp("states")
    nodes = [
        helper.make_node("Add", ["state", "x"], ["stateN"], name="add"),
        helper.make_node("Mul", ["stateN", "two"], ["y"], name="twice"),
    ]
    constants = {"two": np.array(2, np.float32)}
    save(model_of(nodes, {"x": [1, 3], "state": [1, 3]}, ["y", "stateN"], constants), folder, "sum.onnx")
    done = edgec("compile", "sum.onnx", "--tune", "none", "-o", "sum.edge", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert "in 8 runs of a session" in done.stdout
    told = "state: 'state' → 'stateN', float32[1, 3] (found by name and shape; --no-state switches it off)"
    assert told in done.stderr
    return folder


def test_inspect_shows_states_of_models_and_artifacts(place: Path, edgec: Edgec) -> None:
    done = edgec("inspect", "sum.onnx", cwd=place)
    assert "state: 'state' → 'stateN', float32[1, 3]" in done.stdout, done.stderr
    done = edgec("inspect", "sum.edge", cwd=place)
    assert "'state' → 'stateN' float32[1, 3], begins with zeros (found by name)" in done.stdout, done.stderr
    assert "input      'state'" not in done.stdout


def test_run_takes_a_sequence_and_continues_from_a_file(place: Path, edgec: Edgec) -> None:
    x = np.arange(12, dtype=np.float32).reshape(4, 1, 3)
    np.savez(place / "four.npz", x=x)
    np.savez(place / "one.npz", x=x[0] + 1)
    done = edgec("run", "sum.edge", "four.npz", "--state", "kept", "--json", cwd=place)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["outputs"]["y"] == (2 * np.cumsum(x, 0)).tolist()
    done = edgec("run", "sum.edge", "one.npz", "--state", "kept", "--json", cwd=place)
    assert json.loads(done.stdout)["outputs"]["y"] == (2 * (x.sum(0) + x[0] + 1)).tolist(), done.stderr
    whole = (place / "kept").read_bytes()
    (place / "kept").write_bytes(whole[:-1])
    done = edgec("run", "sum.edge", "one.npz", "--state", "kept", cwd=place)
    assert done.returncode == 5
    assert "the snapshot is cut short or damaged" in done.stderr
    assert (place / "kept").read_bytes() == whole[:-1]
    np.savez(place / "given.npz", x=x[0], state=np.ones((1, 3), np.float32))
    done = edgec("run", "sum.edge", "given.npz", "--json", cwd=place)  # a state that is given is an input
    assert json.loads(done.stdout)["outputs"]["stateN"] == (x[0] + 1).tolist(), done.stderr


@pytest.mark.long
def test_verify_takes_a_sequence_and_bench_runs_a_session(place: Path, edgec: Edgec) -> None:
    np.savez(place / "three.npz", x=np.random.default_rng(0).random((3, 1, 3), np.float32))
    done = edgec("verify", "sum.edge", "sum.onnx", "--inputs", "three.npz", "--json", cwd=place)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert (result["steps"], result["ok"], [e["name"] for e in result["errors"]]) == (
        3,
        True,
        ["y", "stateN"],
    )
    done = edgec("bench", "sum.edge", "sum.onnx", "--runs", "5", "--limit", "0.2", "--json", cwd=place)
    assert done.returncode == 0, done.stderr
    assert set(json.loads(done.stdout)["latency"]) == {"edgec", "onnxruntime"}


@pytest.mark.long
def test_no_state_leaves_it_to_the_caller(place: Path, edgec: Edgec, artifact: Path) -> None:
    done = edgec("compile", "sum.onnx", "--no-state", "--tune", "none", "-o", "plain.edge", cwd=place)
    assert done.returncode == 0, done.stderr
    assert "state:" not in done.stderr
    assert "runs of a session" not in done.stdout
    np.savez(place / "any.npz", x=np.zeros((1, 3), np.float32))
    done = edgec("run", "plain.edge", "any.npz", cwd=place)
    assert "input 'state' of sum is missing" in done.stderr
    done = edgec("run", artifact, "any.npz", "--state", "kept", cwd=place)
    assert (done.returncode, "small has no states" in done.stderr) == (2, True)
