"""An artifact requires the instructions for 16-bit floats only where its code computes with them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

import edgec.runtime as rt
from edgec.compiler.errors import ToolMissing
from edgec.compiler.options import CompileOptions, Precision
from edgec.compiler.pipeline import compile_model
from edgec.compiler.progress import Silent
from edgec.compiler.verify.runnable import verifiable
from edgec.targets import load_target, machine_features
from tests.compiler.onnx_models import model_of, save

HALVES = {"avx512_bf16", "avx512_fp16"}


class Notes(Silent):
    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, message: str) -> None:
        self.notes.append(message)


def product() -> ModelProto:
    weight = np.linspace(-1, 1, 64 * 32, dtype="f4").reshape(64, 32)
    return model_of([helper.make_node("Gemm", ["x", "w"], ["y"])], {"x": [4, 64]}, ["y"], {"w": weight})


def in_half() -> ModelProto:
    weight = numpy_helper.from_array(np.linspace(-1, 1, 64 * 32, dtype="f2").reshape(64, 32), "w")
    ports = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT16, shape)
        for name, shape in (("x", [4, 64]), ("y", [4, 32]))
    ]
    graph = helper.make_graph(
        [helper.make_node("Gemm", ["x", "w"], ["y"])], "g", *([p] for p in ports), [weight]
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.mark.parametrize(
    ("half", "precision", "needed"),
    [
        (False, "fp32", set()),
        (False, "bf16", {"avx512_bf16"}),
        (False, "fp16", {"avx512_fp16"}),
        (True, "fp32", {"avx512_fp16"}),
    ],
)
def test_features_that_the_code_has_a_use_for(
    half: bool, precision: Precision, needed: set[str], tmp_path: Path
) -> None:
    options = CompileOptions(precision=precision, tune="none", threads=1, verify=False)
    path = save(in_half() if half else product(), tmp_path)
    made = compile_model(path, load_target("sapphirerapids"), options, output=tmp_path / "m.edge")
    assert set(made.config.required_features) & HALVES == needed
    assert {"avx512f", "avx512_vnni"} <= set(made.config.required_features)


@pytest.mark.skipif("avx512_vnni" not in machine_features(), reason="hardware: no AVX-512 here")
def test_code_without_half_precision_is_verified_on_a_processor_without_it(tmp_path: Path) -> None:
    options = CompileOptions(tune="none", threads=1)
    path = save(product(), tmp_path)
    made = compile_model(path, load_target("sapphirerapids"), options, output=tmp_path / "m.edge")
    assert made.evidence["where"] == "this machine"
    with rt.load(made.artifact, threads=1) as model:
        assert model.run({"x": np.zeros((4, 64), "f4")})["y"].shape == (4, 32)
    command = [sys.executable, "-m", "edgec.cli.main", "verify", str(made.artifact), str(path)]
    subprocess.run(command, check=True, capture_output=True)


@pytest.mark.skipif(
    "avx512_vnni" not in machine_features() or "avx512_fp16" in machine_features(),
    reason="hardware: AVX-512 without half precision",
)
def test_auto_leaves_out_what_cannot_be_verified() -> None:
    told = Notes()
    target = verifiable(load_target("sapphirerapids"), "auto", told)
    assert target.features <= machine_features()
    assert "avx512_fp16" in told.notes[0]
    assert "--no-verify" in told.notes[0]
    with pytest.raises(ToolMissing, match=r"avx512_fp16.*--precision auto"):
        verifiable(load_target("sapphirerapids"), "fp16", told)
