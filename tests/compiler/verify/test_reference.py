"""The reference in a compile's evidence."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper

import edgec.runtime as rt
from edgec.compiler.frontends import load_source
from edgec.compiler.frontends.onnx.ort_session import open_session
from edgec.compiler.options import CompileOptions
from edgec.compiler.pipeline import compile_model
from edgec.compiler.verify import reference
from edgec.compiler.verify.assess import assess, expected_for
from edgec.compiler.verify.extremes import Probe
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


@pytest.mark.parametrize("written", ["MatMulNBits", "DequantizeLinear"])
@pytest.mark.parametrize("level", [0, 4])
def test_products_with_4_bits_are_compared_with_the_activations_that_the_model_means(
    written: str, level: int, tmp_path: Path
) -> None:
    """ONNX Runtime rounds them to 8 bits where `accuracy_level` says so, and in products that it fuses itself."""
    rng = np.random.default_rng(0)
    inner, columns, size = 64, 32, 32
    codes = rng.integers(0, 16, (columns, inner)).astype(np.uint8)
    scales = rng.uniform(0.01, 0.1, (columns, inner // size)).astype(np.float32)
    x = rng.standard_normal((1, inner)).astype(np.float32)
    if written == "MatMulNBits":
        attrs = {"K": inner, "N": columns, "bits": 4, "block_size": size, "accuracy_level": level}
        nodes = [helper.make_node(written, ["x", "w", "s"], ["y"], domain="com.microsoft", **attrs)]
        packed = (codes[:, ::2] | codes[:, 1::2] << 4).reshape(columns, inner // size, size // 2)
        model = model_of(nodes, {"x": (TensorProto.FLOAT, [1, inner])}, ["y"], {"w": packed, "s": scales})
        model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    else:
        nodes = [
            helper.make_node(written, ["w", "s"], ["real"], axis=0, block_size=size),
            helper.make_node("MatMul", ["x", "real"], ["y"]),
        ]
        model = model_of(nodes, {"x": (TensorProto.FLOAT, [1, inner])}, ["y"], {"s": scales.T.copy()})
        values = (codes.astype(np.int16) - 8).T.reshape(-1).tolist()
        model.opset_import[0].version = 21
        model.graph.initializer.append(helper.make_tensor("w", TensorProto.INT4, [inner, columns], values))
    source, given = load_source(save(model, tmp_path), CompileOptions()), x
    real = (codes.astype(np.float64) - 8) * scales.repeat(size, 1)
    rounds = written == "MatMulNBits" and level == 4
    assert reference.is_quantised(source.reference) is rounds
    if rounds:
        blocks = x.reshape(-1, size)
        steps = np.abs(blocks).max(1, keepdims=True) / np.float32(127)
        x = (np.rint(blocks / steps) * steps).reshape(1, inner)
    found = reference.Reference(source).run({"x": given})["y"]
    np.testing.assert_allclose(found, x @ real.T, rtol=1e-5, atol=1e-4)


def test_a_quantised_model_may_agree_with_onnx_runtime_as_it_runs_nodes_one_by_one(tmp_path: Path) -> None:
    """Its joined kernels of Softmax and Add round elsewhere; a model of floats behind them shows a whole step."""
    rng = np.random.default_rng(3)
    constants = {
        "s": np.float32(0.05).reshape(()), "z": np.uint8(128).reshape(()), "t": np.float32(1 / 255).reshape(()),
        "o": np.uint8(0).reshape(()),
    }  # fmt: skip
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["a"]),
        helper.make_node("DequantizeLinear", ["a", "s", "z"], ["b"]),
        helper.make_node("Softmax", ["b"], ["c"], axis=-1),
        helper.make_node("QuantizeLinear", ["c", "t", "o"], ["d"]),
        helper.make_node("DequantizeLinear", ["d", "t", "o"], ["y"]),
    ]
    model = save(model_of(nodes, {"x": (TensorProto.FLOAT, [1, 64, 7])}, ["y"], constants), tmp_path)
    source = load_source(model, CompileOptions())
    inputs = {"x": rng.standard_normal((1, 64, 7)).astype(np.float32)}
    expected = expected_for(source, [Probe("", inputs)], 1, 1e-3)
    alone = open_session(source.model.SerializeToString(), refine=_one_by_one).run(None, inputs)[0]
    assert np.abs(alone - expected.outputs["y"]).max() > 1 / 256  # else this shows nothing

    def accepted(got: np.ndarray) -> bool:
        return assess(source, [Probe("", inputs)], expected, {0: {"y": got}}, [])[0][0].ok

    assert accepted(alone)
    assert not accepted(alone + np.float32(3 / 255))


def _one_by_one(options: ort.SessionOptions) -> None:
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
