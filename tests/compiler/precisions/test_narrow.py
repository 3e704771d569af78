"""Products of bfloat16: the right numbers by the path that any machine runs, the instruction where a target has it."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any, NoReturn

import ml_dtypes
import numpy as np
import onnxruntime as ort
import pytest
from onnx import ModelProto, helper

import edgec.runtime as rt
from edgec.compiler import lower as lower_module
from edgec.compiler import pack
from edgec.compiler.backends.interface import CandidateFailed, Workload
from edgec.compiler.errors import TargetLacksPrecision
from edgec.compiler.frontends import load_source, to_relax
from edgec.compiler.lower import lower
from edgec.compiler.options import CompileOptions
from edgec.compiler.pipeline import compile_model
from edgec.compiler.precisions.narrow import choose_layers
from edgec.compiler.progress import Silent
from edgec.targets import detect, load_target, machine_features
from tests.compiler.onnx_models import build, model_of, save

BF16 = CompileOptions(precision="bf16", tune="none", threads=1)
# EVEX.512.F3.0F38.W0 52 /r
VDPBF16PS = re.compile(
    rb"\x62[\x02\x12\x22\x32\x42\x52\x62\x72\x82\x92\xa2\xb2\xc2\xd2\xe2\xf2].[\x40-\x5f\xc0-\xdf]\x52", re.S
)


def rounded(array: np.ndarray) -> np.ndarray:
    return array.astype(ml_dtypes.bfloat16).astype(np.float32)


def conv(ic: int, oc: int, size: int, kernel: int, stride: int, groups: int) -> tuple[ModelProto, np.ndarray]:
    rng = np.random.default_rng(ic + oc)
    weight = rounded((rng.standard_normal((oc, ic // groups, kernel, kernel)) / ic).astype("f4"))
    pad = kernel // 2
    nodes = [
        helper.make_node("Conv", ["x", "w", "b"], ["c"], pads=[pad] * 4, strides=[stride] * 2, group=groups),
        helper.make_node("Relu", ["c"], ["y"]),
    ]
    constants = {"w": weight, "b": rng.standard_normal(oc).astype("f4")}
    x = rounded(rng.standard_normal((2, ic, size, size + 3)).astype("f4"))
    return model_of(nodes, {"x": list(x.shape)}, ["y"], constants), x


def dense(rows: int, inner: int, cols: int) -> tuple[ModelProto, np.ndarray]:
    rng = np.random.default_rng(inner)
    weight = rounded((rng.standard_normal((inner, cols)) / np.sqrt(inner)).astype("f4"))
    nodes = [helper.make_node("Gemm", ["x", "w", "b"], ["y"])]
    constants = {"w": weight, "b": rng.standard_normal(cols).astype("f4")}
    return model_of(nodes, {"x": [rows, inner]}, ["y"], constants), rounded(
        rng.standard_normal((rows, inner)).astype("f4")
    )


@pytest.mark.parametrize(
    "made",
    [
        conv(32, 48, 9, 3, 1, 1),
        conv(26, 17, 11, 3, 2, 1),
        conv(64, 64, 7, 1, 1, 1),
        conv(64, 64, 6, 3, 1, 2),
        conv(600, 16, 5, 3, 1, 1),
        dense(1, 130, 33),
        dense(7, 64, 100),
    ],
    ids=["conv", "odd", "pointwise", "groups", "deep", "dense", "rows"],
)
def test_operands_that_bfloat16_holds_lose_nothing(
    made: tuple[ModelProto, np.ndarray], tmp_path: Path
) -> None:
    model, x = made
    _, artifact = build(save(model, tmp_path), tmp_path, BF16)
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (wanted,) = session.run(None, {"x": x})
    with rt.load(artifact, threads=1) as loaded:
        assert any("bf16" in kernel.schedule for kernel in loaded.config.kernels.values())
        got = loaded.run({"x": x})["y"]
    np.testing.assert_allclose(got, wanted, rtol=0, atol=3e-6 * float(np.abs(wanted).max()))


def stack() -> ModelProto:
    """Three convolutions and a product; the second has a thousand times the others' effect."""
    rng = np.random.default_rng(0)
    constants = {f"w{k}": (rng.standard_normal((32, 32, 3, 3)) / 17).astype("f4") for k in range(3)}
    constants["small"] = np.float32(1e-3)
    constants["m"] = (rng.standard_normal((32, 10)) / 6).astype("f4")
    nodes = [
        helper.make_node("Conv", ["x", "w0"], ["a"], pads=[1] * 4),
        helper.make_node("Conv", ["x", "w1"], ["b"], pads=[1] * 4),
        helper.make_node("Mul", ["a", "small"], ["s"]),
        helper.make_node("Add", ["s", "b"], ["c"]),
        helper.make_node("Conv", ["c", "w2"], ["d"], pads=[1] * 4),
        helper.make_node("GlobalAveragePool", ["d"], ["g"]),
        helper.make_node("Flatten", ["g"], ["f"]),
        helper.make_node("MatMul", ["f", "m"], ["y"]),
    ]
    return model_of(nodes, {"x": [1, 32, 8, 8]}, ["y"], constants)


def test_layers_are_chosen_by_what_they_cost_in_accuracy(tmp_path: Path) -> None:
    source = load_source(save(stack(), tmp_path), CompileOptions())
    x = {"x": np.random.default_rng(1).standard_normal((1, 32, 8, 8)).astype("f4")}
    every = choose_layers(source, x, 1.0)
    assert len(every.alone) == len(every.nodes) == 4
    assert not choose_layers(source, x, 1e-9).nodes
    harmless = min(every.alone, key=lambda node: every.alone[node])
    some = choose_layers(source, x, every.alone[harmless] * 3)
    assert harmless in some.nodes
    assert len(some.nodes) < 4
    assert 0 < some.error <= every.alone[harmless] * 3


def test_a_target_with_the_instruction_gets_it_and_others_refuse(tmp_path: Path) -> None:
    path = save(conv(32, 48, 9, 3, 1, 1)[0], tmp_path)
    target = load_target("zen4")
    imported = to_relax(load_source(path, BF16))
    lowered = lower(imported.mod, target, BF16, Silent())
    assert VDPBF16PS.search(lowered.code)
    plain = lower(imported.mod, target, CompileOptions(tune="none", threads=1), Silent())
    assert not VDPBF16PS.search(plain.code)
    assert {str(w.dtype) for w in lowered.weights.values()} == {"bfloat16", "float32"}
    with pytest.raises(TargetLacksPrecision, match="x86-64-v4 has no bfloat16 dot products"):
        compile_model(path, load_target("x86-64-v4"), BF16, output=tmp_path / "a.edge")
    config = pack.make_config(imported.source, lowered, target, BF16, name="m", version="1", card=None)
    assert "avx512_bf16" in config.required_features
    pack.write(tmp_path / "m.edge", config, lowered)
    if "avx512_bf16" in machine_features():
        pytest.skip("hardware: this machine can run products of bfloat16, so nothing is refused here")
    with pytest.raises(rt.IncompatibleDevice, match="avx512_bf16"):
        rt.load(tmp_path / "m.edge")


def gelu_between_products() -> ModelProto:
    """Two products with GELU between them, whose result the second one rounds to bfloat16."""
    rng = np.random.default_rng(0)
    constants = {
        "w": rounded((rng.standard_normal((64, 96)) / 8).astype("f4")),
        "v": rounded((rng.standard_normal((96, 32)) / 10).astype("f4")),
        "b": rng.standard_normal(96).astype("f4"),
        "root": np.float32(np.sqrt(2)),
        "one": np.float32(1),
        "half": np.float32(0.5),
    }
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["m"]),
        helper.make_node("Add", ["m", "b"], ["a"]),
        helper.make_node("Div", ["a", "root"], ["d"]),
        helper.make_node("Erf", ["d"], ["e"]),
        helper.make_node("Add", ["e", "one"], ["e1"]),
        helper.make_node("Mul", ["a", "e1"], ["g"]),
        helper.make_node("Mul", ["g", "half"], ["h"]),
        helper.make_node("MatMul", ["h", "v"], ["y"]),
    ]
    return model_of(nodes, {"x": [13, 64]}, ["y"], constants)


def test_a_function_before_the_rounding_is_computed_once(tmp_path: Path) -> None:
    model = gelu_between_products()
    x = rounded(np.random.default_rng(1).standard_normal((13, 64)).astype("f4"))
    x[0, :3] = 40.0  # saturates the error function
    _, artifact = build(save(model, tmp_path), tmp_path, BF16)
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (wanted,) = session.run(None, {"x": x})
    with rt.load(artifact, threads=1) as loaded:
        got = loaded.run({"x": x})["y"]
        x[1, 0] = np.nan
        assert np.isnan(loaded.run({"x": x})["y"][1]).all()
    np.testing.assert_allclose(got, wanted, rtol=0, atol=1e-2 * float(np.abs(wanted).max()))


def test_a_layer_whose_kernels_do_not_build_is_computed_in_fp32(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Every kernel of 96 columns in bfloat16 is refused, as a code generator's defect would."""
    original = lower_module._work

    def refusing(func: Any, kernel: Any, threads: int, tuner: Any) -> Workload | None:
        work = original(func, kernel, threads, tuner)
        if work is None or work.operands.label != "bf16" or '"cols":96' not in work.key:
            return work

        def refuse(_: object) -> NoReturn:
            raise CandidateFailed("the code generator has a defect")

        return dataclasses.replace(work, emit=refuse)

    monkeypatch.setattr(lower_module, "_work", refusing)
    options = CompileOptions(precision="bf16", tune="fast", threads=1, cache_dir=tmp_path / "cache")
    imported = to_relax(load_source(save(gelu_between_products(), tmp_path), options))
    notes = Recorded()
    lowered = lower(imported.mod, detect(), options, notes)
    assert len([kernel for kernel in lowered.kernels.values() if kernel.flops]) == 2
    assert any("computed in fp32: no kernel of theirs builds in bf16" in text for text in notes.notes)


class Recorded(Silent):
    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)


def test_layers_are_chosen_on_the_extremes_that_verification_compares(tmp_path: Path) -> None:
    """Beside a thousand times the input, a convolution of constants costs nothing; where that is 0, it is all."""
    rng = np.random.default_rng(0)
    constants = {"w": (1 + rng.standard_normal((16, 16, 1, 1)) / 8).astype("f4"), "one": np.float32(1.1)}
    constants["thousand"] = np.float32(1000)
    nodes = [
        helper.make_node("Abs", ["x"], ["a"]),
        helper.make_node("Add", ["a", "one"], ["b"]),
        helper.make_node("Conv", ["b", "w"], ["c"]),
        helper.make_node("Mul", ["x", "thousand"], ["d"]),
        helper.make_node("Add", ["c", "d"], ["y"]),
    ]
    model = model_of(nodes, {"x": [1, 16, 4, 4]}, ["y"], constants)
    source = load_source(save(model, tmp_path), CompileOptions())
    x = {"x": rng.standard_normal((1, 16, 4, 4)).astype("f4")}
    (cost,) = choose_layers(source, x, 1.0).alone.values()
    assert cost > 5e-4  # 0.002 on zeros, 2e-5 on these
    assert not choose_layers(source, x, 2e-4).nodes
