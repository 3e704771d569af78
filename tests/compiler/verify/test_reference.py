"""The reference in a compile's evidence."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper

import edgec.runtime as rt
from edgec.compiler.options import CompileOptions
from edgec.compiler.pipeline import compile_model
from edgec.compiler.verify import reference
from edgec.targets import detect, machine_arch
from tests.compiler.small_models import model_of, save


def test_a_compile_without_vnni_says_what_it_compared_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if machine_arch() != "x86_64":
        pytest.skip("hardware: only x86-64 has CPUs with AVX2")
    monkeypatch.setattr(reference, "machine_features", lambda: frozenset({"avx2"}))
    rng = np.random.default_rng(0)
    constants = {"w": rng.integers(-128, 128, (16, 16)).astype(np.int8), "s": np.float32(0.1).reshape(())}
    nodes = [
        helper.make_node("DequantizeLinear", ["a", "s"], ["real"]),
        helper.make_node("DequantizeLinear", ["w", "s"], ["weights"]),
        helper.make_node("MatMul", ["real", "weights"], ["y"]),
    ]
    model = save(model_of(nodes, {"a": (TensorProto.UINT8, [4, 16])}, ["y"], constants), tmp_path)
    result = compile_model(
        model, detect(), CompileOptions(tune="none", threads=1), output=tmp_path / "a.edge"
    )
    evidence = rt.Artifact.open(result.artifact).evidence()
    assert evidence is not None
    assert evidence["verified"]
    assert evidence["reference"].endswith("(session.x64quantprecision=1)")
