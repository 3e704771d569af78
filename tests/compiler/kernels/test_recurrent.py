"""Recurrent layers as one kernel each, without calls of the C library's scalar functions in it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from onnx import helper

import edgec.runtime as rt
from tests.compiler.onnx_models import both, build, model_of, save

GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}


@pytest.mark.parametrize(("kind", "hidden"), [("LSTM", 32), ("GRU", 20), ("RNN", 7)])
def test_gates_are_vector_code_and_right(kind: str, hidden: int, tmp_path: Path) -> None:
    rng = np.random.default_rng(hidden)
    rows = GATES[kind] * hidden
    constants = {
        "w": (rng.standard_normal((1, rows, 9)) / 3).astype("f4"),
        "r": (rng.standard_normal((1, rows, hidden)) / np.sqrt(hidden)).astype("f4"),
        "b": rng.standard_normal((1, 2 * rows)).astype("f4"),
    }
    nodes = [helper.make_node(kind, ["x", "w", "r", "b"], ["y", "h"], hidden_size=hidden)]
    model = model_of(nodes, {"x": [5, 2, 9]}, ["y", "h"], constants)
    x = (3 * rng.standard_normal((5, 2, 9))).astype("f4")
    wanted, made = both(model, {"x": x}, tmp_path)
    for ours, theirs in zip(made, wanted, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=2e-6)
    _, artifact = build(save(model, tmp_path), tmp_path)
    code = rt.Artifact.open(artifact).code()
    assert b"expf" not in code
    assert b"tanhf" not in code


def test_results_of_one_kernel_that_are_read_late_keep_their_bytes(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    constants = {
        "w": rng.standard_normal((2, 32, 3)).astype("f4"),
        "r": rng.standard_normal((2, 32, 8)).astype("f4"),
    }
    nodes = [
        helper.make_node("LSTM", ["x", "w", "r"], ["y", "h", "c"], hidden_size=8, direction="bidirectional"),
        helper.make_node("Add", ["h", "c"], ["s"]),
    ]
    model = model_of(nodes, {"x": [5, 2, 3]}, ["y", "s"], constants)
    x = rng.standard_normal((5, 2, 3)).astype("f4")
    wanted, made = both(model, {"x": x}, tmp_path)
    for ours, theirs in zip(made, wanted, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=2e-6)
