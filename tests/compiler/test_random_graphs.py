"""Random graphs of operators, of every rank and type, compile and compute what the standard's evaluator computes."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

import edgec.runtime as rt
from edgec.compiler.options import CompileOptions
from tests.compiler.onnx_models import build, save
from tests.compiler.random_graphs.drawing import Drawn
from tests.compiler.random_graphs.graphs import drawn
from tests.compiler.samples.check import typed


def wrong(graph: Drawn, folder: Path, threads: int = 1) -> str:
    """What is wrong with a compiled graph, empty if nothing is."""
    model = typed(graph.model)
    _, artifact = build(save(model, folder), folder, CompileOptions(tune="none", threads=threads))
    with rt.load(artifact, threads=threads) as loaded:
        kept = {port.name for port in loaded.inputs}
        for _ in range(2):  # the second run finds memory in use before
            got = loaded.run({name: value for name, value in graph.inputs.items() if name in kept})
            for name, value in graph.expected.items():
                if got[name].shape != value.shape or got[name].dtype != value.dtype:
                    return f"{name}: {got[name].dtype}{got[name].shape}, not {value.dtype}{value.shape}"
                error = np.abs(got[name].astype("float64") - value.astype("float64")).max(initial=0.0)
                if not error <= graph.allowed[name]:
                    return f"{name}: off by {error:.3g}, of {graph.allowed[name]:.3g}"
    return ""


@pytest.mark.parametrize("number", range(4))
def test_a_few_graphs(number: int, tmp_path: Path) -> None:
    assert wrong(drawn(0, number), tmp_path) == ""


@pytest.mark.long
@pytest.mark.timeout(0)
def test_many_graphs(tmp_path: Path) -> None:
    seed = int.from_bytes(os.urandom(4), "big")
    found = {}
    for number in range(int(os.environ.get("EDGEC_GRAPHS", "1000"))):
        told = wrong(drawn(seed, number), tmp_path, threads=1 + number % 2)
        if told:
            found[f"seed {seed}, graph {number}"] = told
    assert not found
