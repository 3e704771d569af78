"""A compile from end to end: proof, evidence, equal bytes, and nothing left behind when it fails."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from onnx import ModelProto, helper

import edgec.runtime as rt
from edgec.compiler.emulation.emulator import lacking
from edgec.compiler.errors import InputShapeError, ModelError, ToolMissing, VerificationFailed
from edgec.compiler.options import CompileOptions
from edgec.compiler.pipeline import compile_model
from edgec.compiler.verify.compare import compare
from edgec.compiler.verify.reference import Reference
from edgec.targets import UsageError, detect, load_target
from tests.compiler.onnx_models import model_of, save

RNG = np.random.default_rng(1)
QUICK = CompileOptions(tune="none", threads=1)


def small() -> ModelProto:
    nodes = [
        helper.make_node("Conv", ["x", "w", "b"], ["c"], pads=[1, 1, 1, 1], name="conv"),
        helper.make_node("Relu", ["c"], ["r"], name="relu"),
        helper.make_node("GlobalAveragePool", ["r"], ["g"], name="pool"),
        helper.make_node("Flatten", ["g"], ["f"], name="flat"),
        helper.make_node("Gemm", ["f", "v"], ["y"], name="gemm"),
    ]
    weights = {"w": (16, 3, 3, 3), "b": (16,), "v": (16, 4)}
    constants = {name: RNG.standard_normal(shape).astype("float32") for name, shape in weights.items()}
    return model_of(nodes, {"x": ["batch", 3, 16, 16]}, ["y"], constants)


@pytest.fixture(scope="module")
def model_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(small(), tmp_path_factory.mktemp("model"), "small.onnx")


def test_evidence_and_report_travel_in_the_artifact(model_file: Path, tmp_path: Path) -> None:
    result = compile_model(model_file, detect(), QUICK, output=tmp_path / "a.edge")
    artifact = rt.Artifact.open(result.artifact)
    artifact.verify_digests()
    evidence = artifact.evidence()
    assert evidence is not None
    assert evidence["verified"]
    assert evidence["outputs"][0]["max_rel"] < 1e-5
    assert set(evidence["latency"]) == {"edgec", "onnxruntime"}
    assert evidence["threads"] == 1
    nodes = {node for layer in evidence["layers"] for node in layer["nodes"]}
    assert {"conv", "gemm"} <= nodes
    report = artifact.report()
    assert report is not None
    assert "<svg" in report
    assert "script" not in report.lower()
    assert artifact.config.provenance.source == "small.onnx"


def test_equal_compiles_are_equal_bytes(model_file: Path, tmp_path: Path) -> None:
    options = CompileOptions(tune="none", threads=1, verify=False)
    first, second = (
        rt.Artifact.open(compile_model(model_file, detect(), options, output=tmp_path / name).artifact)
        for name in ("a.edge", "b.edge")
    )
    kinds = ("code", "weights")
    assert first.manifest.config.digest == second.manifest.config.digest
    for a, b in zip(first.layers, second.layers, strict=True):
        if any(kind in a.media_type for kind in kinds):
            assert a.digest == b.digest


def test_no_proof_no_artifact(model_file: Path, tmp_path: Path) -> None:
    strict = CompileOptions(tune="none", threads=1, error_budget=-1.0)
    target = tmp_path / "never.edge"
    inputs = tmp_path / "large.npz"
    np.savez(inputs, x=RNG.standard_normal((1, 3, 16, 16)).astype("float32") * 1e6)
    with pytest.raises(VerificationFailed, match=r"does not match.*'y'"):
        compile_model(model_file, detect(), strict, output=target, inputs=inputs)
    assert not target.exists()
    assert not list(tmp_path.glob(".never*"))


def test_what_is_too_coarse_is_refused_with_the_way_out(model_file: Path, tmp_path: Path) -> None:
    coarse = CompileOptions(precision="bf16", tune="none", threads=1, error_budget=1e-9)
    if "avx512_bf16" not in detect().features:
        pytest.skip("hardware: no products of bfloat16 here")
    with pytest.raises(VerificationFailed, match=r"(?s)written\.\n--precision auto keeps.*--error-budget"):
        compile_model(model_file, detect(), coarse, output=tmp_path / "never.edge")
    assert not (tmp_path / "never.edge").exists()


def test_without_verification_the_artifact_says_so(model_file: Path, tmp_path: Path) -> None:
    options = CompileOptions(tune="none", threads=1, verify=False)
    result = compile_model(model_file, load_target("rpi4"), options, output=tmp_path / "a.edge")
    artifact = rt.Artifact.open(result.artifact)
    evidence = artifact.evidence()
    assert evidence is not None
    assert not evidence["verified"]
    assert "--no-verify" in evidence["reason"]
    assert artifact.config.arch == "aarch64"
    assert artifact.code()[18] == 183  # EM_AARCH64


def test_inputs_to_verify_with_must_fit(model_file: Path, tmp_path: Path) -> None:
    inputs = tmp_path / "in.npz"
    np.savez(inputs, x=np.zeros((1, 3, 8, 8), "float32"))
    with pytest.raises(InputShapeError, match=r"\[1, 3, 16, 16\], not \[1, 3, 8, 8\]"):
        compile_model(model_file, detect(), QUICK, output=tmp_path / "a.edge", inputs=inputs)
    inputs.write_bytes(b"no archive")
    with pytest.raises(InputShapeError, match="cannot be read"):
        compile_model(model_file, detect(), QUICK, output=tmp_path / "a.edge", inputs=inputs)
    assert not (tmp_path / "a.edge").exists()


def test_what_is_no_file_is_no_output_before_any_work(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UsageError, match="pipe: is a device, pipe or socket"):
        compile_model(tmp_path / "no.onnx", detect(), QUICK, output=tmp_path / "pipe")
    assert (tmp_path / "pipe").is_fifo()


def test_no_process_is_left_when_the_reference_fails(
    model_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise ModelError("ONNX Runtime fails on these inputs")

    def children() -> set[str]:
        return set(Path("/proc/self/task", str(os.getpid()), "children").read_text(encoding="ascii").split())

    before = children()
    monkeypatch.setattr(Reference, "run", fail)
    with pytest.raises(ModelError, match="fails on these inputs"):
        compile_model(model_file, detect(), QUICK, output=tmp_path / "a.edge")
    assert children() <= before
    assert not (tmp_path / "a.edge").exists()


@pytest.mark.emulator
def test_an_artifact_for_the_raspberry_pi_runs_under_the_emulator(model_file: Path, tmp_path: Path) -> None:
    target = load_target("rpi4")
    if told := lacking(target):
        pytest.skip(told)
    result = compile_model(model_file, target, QUICK, output=tmp_path / "a.edge")
    assert result.evidence["verified"]
    assert "qemu-aarch64" in result.evidence["where"]
    assert result.evidence["outputs"][0]["cosine"] > 0.999999


def test_no_emulator_is_said_before_any_work(
    model_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGEC_EMULATOR_ROOT", str(tmp_path / "nothing"))
    with pytest.raises(ToolMissing, match="edgec targets emulator install"):
        compile_model(model_file, load_target("rpi4"), QUICK, output=tmp_path / "a.edge")


def test_errors_of_outputs() -> None:
    a = np.array([1.0, np.nan, np.inf, -2.0], "float32")
    assert compare("y", a, a.copy(), 0.0).ok
    assert compare("y", a, np.array([1.001, np.nan, np.inf, -2.0], "float32"), 1e-3).ok
    assert not compare("y", a, np.array([1.0, 0.0, np.inf, -2.0], "float32"), 1.0).ok
    assert not compare("y", a, np.array([1.0, np.nan, -np.inf, -2.0], "float32"), 1.0).ok
    assert not compare("y", a, a.astype("float64"), 1.0).ok
    ids = np.array([3, 1], "int64")
    assert compare("y", ids, ids.copy(), 0.0).ok
    assert compare("y", ids, np.array([3, 2], "int64"), 1.0).mismatches == 1
    zero = np.zeros(3, "float32")
    assert compare("y", zero, zero, 0.0).cosine == 1.0
    assert not compare("y", zero, zero + 1, 0.5).ok
