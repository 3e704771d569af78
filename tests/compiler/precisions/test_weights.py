"""Weights of few bits in float models: as ONNX Runtime computes them, within the budget, and smaller."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from onnx import ModelProto, helper

import edgec.runtime as rt
from edgec.compiler.frontends import load_source
from edgec.compiler.options import Calibration, CompileOptions
from edgec.compiler.pipeline import compile_model
from edgec.compiler.precisions.samples import error_on, samples_of
from edgec.compiler.precisions.weights import rounded, with_narrow_weights
from edgec.targets import detect
from tests.compiler.onnx_models import model_of, save

WIDTH = 256


def model() -> ModelProto:
    """Two products with a sum each, of a constant and of the input, and one that is too small."""
    rng = np.random.default_rng(3)
    constants = {
        "up": (rng.normal(size=(WIDTH, 2 * WIDTH)) / 16).astype("f4"),
        "bias": rng.normal(size=2 * WIDTH).astype("f4"),
        "down": (rng.normal(size=(2 * WIDTH, WIDTH)) / 22).astype("f4"),
        "head": (rng.normal(size=(10, WIDTH)) / 16).astype("f4"),
    }
    nodes = [
        helper.make_node("Gemm", ["x", "up", "bias"], ["u"]),
        helper.make_node("Relu", ["u"], ["r"]),
        helper.make_node("MatMul", ["r", "down"], ["d"]),
        helper.make_node("Add", ["d", "x"], ["s"]),
        helper.make_node("Gemm", ["s", "head"], ["y"], transB=1),
    ]
    return model_of(nodes, {"x": [1, WIDTH]}, ["y"], constants)


@pytest.mark.parametrize("bits", [4, 8])
@settings(max_examples=25, deadline=None)
@given(weights=hnp.arrays("float32", (3, 64), elements=st.floats(-1000, 1000, width=32)))
def test_every_weight_is_within_a_step(bits: int, weights: np.ndarray) -> None:
    blocks = rounded(weights, bits)
    most = (1 << (bits - 1)) - 1
    largest = np.abs(weights.reshape(3, 2, 32)).max(-1)
    assert np.abs(blocks.codes.astype(int)).max() <= most + 1
    error = np.square(blocks.values - weights).reshape(3, 2, 32).sum(-1)
    assert (error <= 32 * np.square(largest / most * 0.51) + 1e-12).all()


@pytest.mark.parametrize("bits", [4, 8])
def test_the_rewritten_model_has_the_error_that_was_measured(bits: int, tmp_path: Path) -> None:
    source = load_source(save(model(), tmp_path), CompileOptions())
    inputs = {"x": np.random.default_rng(1).normal(size=(1, WIDTH)).astype("f4")}
    made, choice = with_narrow_weights(source, inputs, 0.5, bits)
    assert [node.op_type for node in made.model.graph.node].count("MatMulNBits") == 2 == choice.layers
    sessions = [
        ort.InferenceSession(one.SerializeToString(), providers=["CPUExecutionProvider"])
        for one in (source.model, made.model)
    ]
    samples = samples_of(source, inputs, half=False)
    assert {"", "zeros", "large numbers"} <= {sample.name for sample in samples}
    runs = [[session.run(None, sample.inputs) for sample in samples] for session in sessions]
    errors = [error_on(sample, ["y"], *pair) for sample, *pair in zip(samples, *runs, strict=True)]
    assert max(errors) == pytest.approx(choice.error, rel=1e-3)
    assert 0 < choice.error < (0.2 if bits == 4 else 0.02)


def test_a_bound_on_data_held_against_it_leaves_out_products(tmp_path: Path) -> None:
    """What all products lose together is more than is accepted: fewer are narrow, or none, and a note says so."""
    path = save(model(), tmp_path)
    np.savez(tmp_path / "examples.npz", x=np.random.default_rng(3).normal(size=(24, 1, WIDTH)).astype("f4"))
    kept = {}
    for bound in (0.075, 1e-4):
        options = CompileOptions(
            precision="w4", tune="none", threads=1, error_budget=0.5, verify=False,
            calibration=Calibration(tmp_path / "examples.npz", max_error=bound),
        )  # fmt: skip
        found = compile_model(path, detect(), options, output=tmp_path / "m.edge").evidence["precision"]
        kept[bound] = next(row for row in found["variants"] if row["name"] == "w4"), found["notes"]
    some, none = kept.values()
    assert some[0]["layers_weights"] == 1
    assert 0.01 < some[0]["quality"]["error"] < 0.075
    assert none[0]["layers_weights"] == 0
    assert "w4 changes nothing: the best products alone have an output error of" in " ".join(none[1])


def test_a_budget_too_small_leaves_the_model_as_it_is(tmp_path: Path) -> None:
    source = load_source(save(model(), tmp_path), CompileOptions())
    made, choice = with_narrow_weights(source, {"x": np.ones((1, WIDTH), "f4")}, 1e-6, 4)
    assert made is source
    assert not choice.nodes
    assert len(choice.alone) == 2


def test_an_artifact_with_weights_of_8_bits_that_data_judge(tmp_path: Path) -> None:
    path, artifact = save(model(), tmp_path), tmp_path / "m.edge"
    examples = np.random.default_rng(3).normal(size=(24, 1, WIDTH)).astype("f4")
    np.savez(tmp_path / "examples.npz", x=examples)
    calibration = Calibration(tmp_path / "examples.npz", max_error=0.01)
    options = CompileOptions(
        precision="w8", tune="none", threads=1, error_budget=2e-2, calibration=calibration
    )
    result = compile_model(path, detect(), options, output=artifact)
    found = result.evidence["precision"]
    assert found["judged"] == {"examples": 24, "max_drop": None, "max_error": 0.01}
    rows = {row["name"]: row for row in found["variants"]}
    assert rows["w8"]["layers_weights"] == 2
    assert 0 < rows["w8"]["quality"]["error"] < 0.01
    assert rows["w8"]["weights_bytes"] < 0.32 * rows["fp32"]["weights_bytes"]
    x = np.random.default_rng(2).normal(size=(1, WIDTH)).astype("f4")
    (exact,) = ort.InferenceSession(path, providers=["CPUExecutionProvider"]).run(None, {"x": x})
    with rt.load(artifact, threads=1) as loaded:
        assert np.abs(loaded.run({"x": x})["y"] - exact).max() < 0.02 * np.abs(exact).max()
