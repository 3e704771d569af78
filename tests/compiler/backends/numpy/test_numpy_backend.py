"""A second kind of hardware takes new files and one line: a model goes all the way through a back end of the tests."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from onnx import helper

import edgec.runtime as rt
from edgec.compiler.errors import KernelUnsupported, NoBackend, TargetLacksPrecision
from edgec.compiler.options import CompileOptions
from edgec.compiler.pipeline import compile_model
from edgec.targets import Target, detect
from edgec.targets.device_kinds import DEVICE_KINDS
from tests.compiler.backends.numpy.device import REGISTRATION
from tests.compiler.onnx_models import model_of, save

SHAPE = [2, 4, 3, 3]
TARGET = replace(detect(), name="numpy-here", device_kind="numpy")
SCALE = np.arange(1, 5, dtype="float32").reshape(1, 4, 1, 1) / 4


@pytest.fixture(autouse=True)
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(DEVICE_KINDS, "numpy", REGISTRATION)


@pytest.fixture
def elementwise(tmp_path: Path) -> Path:
    """sigmoid(relu(x * scale + y)) and tanh(exp(x)): two kernels, one of them fused of four operators."""
    nodes = [
        helper.make_node("Mul", ["x", "scale"], ["scaled"]),
        helper.make_node("Add", ["scaled", "y"], ["sum"]),
        helper.make_node("Relu", ["sum"], ["positive"]),
        helper.make_node("Sigmoid", ["positive"], ["first"]),
        helper.make_node("Exp", ["x"], ["power"]),
        helper.make_node("Tanh", ["power"], ["second"]),
    ]
    model = model_of(nodes, {"x": SHAPE, "y": SHAPE}, ["first", "second"], {"scale": SCALE})
    return save(model, tmp_path, "elementwise.onnx")


def compiled(path: Path, folder: Path, target: Target = TARGET, **options: object) -> Path:
    chosen = CompileOptions(threads=1, cache_dir=folder / "cache", **options)
    return compile_model(path, target, chosen, output=folder / "model.edge").artifact


def test_an_elementwise_model_compiles_verifies_and_runs(elementwise: Path, tmp_path: Path) -> None:
    result = compile_model(
        elementwise, TARGET, CompileOptions(threads=1, cache_dir=tmp_path / "c"), output=tmp_path / "m.edge"
    )
    assert result.evidence["verified"]
    assert result.evidence["where"] == "numpy"
    assert result.evidence["latency"]["edgec"]["runs"] > 0
    assert result.config.device_kind == "numpy"
    rng = np.random.default_rng(0)
    x, y = (rng.standard_normal(SHAPE).astype("float32") for _ in range(2))
    with rt.load(result.artifact) as model:
        outputs = model.run({"x": x, "y": y})
        layers = model.profile({"x": x, "y": y}, repeats=3)
    expected = 1 / (1 + np.exp(-np.maximum(x * SCALE + y, 0)))
    np.testing.assert_allclose(outputs["first"], expected, rtol=1e-5)
    np.testing.assert_allclose(outputs["second"], np.tanh(np.exp(x)), rtol=1e-5)
    assert len(layers) == 2
    assert sum(len(layer.nodes) for layer in layers) == 6


def test_equal_compiles_are_equal_code(elementwise: Path, tmp_path: Path) -> None:
    first = compiled(elementwise, tmp_path / "a", verify=False).parent
    second = compiled(elementwise, tmp_path / "b", verify=False).parent
    codes = [rt.Artifact.open(folder / "model.edge").code() for folder in (first, second)]
    assert codes[0] == codes[1]


def test_a_graph_that_it_cannot_compute_is_refused(tmp_path: Path) -> None:
    product = model_of(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        {"x": [2, 4]},
        ["y"],
        {"w": np.eye(4, dtype="float32")},
    )
    with pytest.raises(KernelUnsupported, match=r"numpy-here cannot compute matmul: .* maps elements only"):
        compiled(save(product, tmp_path, "product.onnx"), tmp_path, fallback=False)
    erf = model_of([helper.make_node("Erf", ["x"], ["y"])], {"x": [2, 4]}, ["y"], {})
    with pytest.raises(
        KernelUnsupported, match=r"numpy-here cannot compute .*: the back end for numpy knows no "
    ):
        compiled(save(erf, tmp_path, "erf.onnx"), tmp_path, fallback=False)
    assert not (tmp_path / "model.edge").exists()


def test_bfloat16_is_refused_unless_a_back_end_says_otherwise(elementwise: Path, tmp_path: Path) -> None:
    with pytest.raises(TargetLacksPrecision, match="numpy-here has no bfloat16 dot products"):
        compiled(elementwise, tmp_path, precision="bf16")


def test_code_of_another_kind_of_device_is_refused(elementwise: Path, tmp_path: Path) -> None:
    artifact = rt.Artifact.open(compiled(elementwise, tmp_path, verify=False))
    weights = {name: weight.array for name, weight in artifact.weights().items()}
    rt.write_artifact(tmp_path / "b.edge", config=artifact.config, code=b"\x7fELF and more", weights=weights)
    with pytest.raises(rt.ArtifactError, match="no program of numpy calls"):
        rt.load(tmp_path / "b.edge")


def test_without_its_line_neither_half_is_found(
    elementwise: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    artifact = compiled(elementwise, tmp_path, verify=False)
    monkeypatch.delitem(DEVICE_KINDS, "numpy")
    with pytest.raises(NoBackend, match="numpy-here is a numpy device; this edgec compiles for: cpu, cuda"):
        compiled(elementwise, tmp_path)
    with pytest.raises(
        rt.IncompatibleDevice, match="a numpy device; this runtime drives cpu and cuda devices only"
    ):
        rt.load(artifact)
