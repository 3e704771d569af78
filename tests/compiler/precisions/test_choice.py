"""The choice among precisions: with measured times that the test decides, and with real ones from end to end."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import edgec.runtime as rt
from edgec.compiler.operands.operands import BFLOAT16
from edgec.compiler.options import Calibration, CompileOptions
from edgec.compiler.pipeline import CompileResult, compile_model
from edgec.compiler.precisions import choice, variants
from edgec.compiler.precisions.choice import _Chooser
from edgec.compiler.precisions.narrow import Limit
from edgec.compiler.progress import Silent
from edgec.compiler.quantise.errors import BoundNotMet, CalibrationError
from edgec.compiler.report.precision import lines
from edgec.compiler.verify.inputs import Arrays
from edgec.compiler.verify.race import Measured
from edgec.targets import detect, load_target, machine_features
from tests.compiler.quantise.small import CLASSES, network, npz, pictures
from tests.compiler.small_models import save

PRODUCTS = ("first", "depthwise", "pointwise", "join", "classes")


class Notes(Silent):
    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)


def compiled(folder: Path, precision: str, notes: Notes | None = None, **calibration: Any) -> CompileResult:
    data = npz(folder, pictures(64))
    options = CompileOptions(
        precision=precision,  # type: ignore[arg-type]
        tune="none",
        threads=1,
        error_budget=0.05,
        calibration=None if precision == "bf16" else Calibration(data, calibrator="minmax", **calibration),
    )
    model = save(network(), folder)
    return compile_model(model, detect(), options, output=folder / "m.edge", progress=notes)


def decided(
    monkeypatch: pytest.MonkeyPatch, times: Mapping[str, float], layers: Mapping[str, Mapping[str, float]]
) -> None:
    """Let measurements be `times` by variant and `layers` by variant and node (1 where not named)."""

    def measure(artifacts: Mapping[str, Path], inputs: Arrays, threads: int) -> dict[str, Measured]:
        return {
            name: Measured(
                times[name], times[name], times[name], 1 << 20,
                tuple({"nodes": [node], "ms": layers.get(name, {}).get(node, 1.0)} for node in PRODUCTS),
            )
            for name in artifacts
        }  # fmt: skip

    monkeypatch.setattr(variants, "measure", measure)


def precision_of(result: CompileResult) -> dict[str, str]:
    return {layer["name"]: layer["precision"] for layer in result.evidence["precision"]["layers"]}


@pytest.fixture(scope="module")
def int8(tmp_path_factory: pytest.TempPathFactory) -> CompileResult:
    """The network in int8, measured on this machine."""
    return compiled(tmp_path_factory.mktemp("int8"), "int8")


def test_an_int8_artifact_is_near_the_float_model_and_says_how_near(
    int8: CompileResult, tmp_path: Path
) -> None:
    result = int8
    found = result.evidence["precision"]
    assert result.evidence["verified"]
    assert found["chosen"] == "int8"
    by_name = {variant["name"]: variant for variant in found["variants"]}
    # So few channels fill a part of a block of 16 in int8, where fp32 may take blocks of 8.
    assert by_name["int8"]["weights_bytes"] < by_name["fp32"]["weights_bytes"]
    assert all(v["median_ms"] > 0 and v["resident_bytes"] > 1 << 20 for v in by_name.values())
    assert 0 < by_name["int8"]["quality"]["error"] < 0.06
    assert found["calibration"]["held_back"] == 32
    assert set(precision_of(result).values()) == {"int8"}
    exact = compile_model(
        save(network(), tmp_path),
        detect(),
        CompileOptions(tune="none", threads=1),
        output=tmp_path / "f.edge",
    )
    for threads in (1, 2):
        with (
            rt.load(result.artifact, threads=threads) as ours,
            rt.load(exact.artifact, threads=threads) as wide,
        ):
            x = pictures(8, seed=5)
            a, b = (np.concatenate([m.run({"x": one})["y"] for one in x]) for m in (ours, wide))
        assert a.shape == (8, CLASSES)
        assert 0 < np.sqrt(np.mean((a - b) ** 2) / np.mean(b**2)) < 0.06
    with rt.load(result.artifact) as model:
        assert model.config.precision == "int8"


def test_auto_takes_int8_only_where_a_layer_gains(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    decided(
        monkeypatch,
        {"fp32": 5.0, "int8": 4.0, "bf16": 6.0, "mixed": 3.0},
        {"int8": {"first": 0.2, "depthwise": 2.0, "pointwise": 0.2, "join": 0.2, "classes": 2.0}},
    )
    result = compiled(tmp_path, "auto")
    assert result.evidence["precision"]["chosen"] == "mixed"
    assert precision_of(result) == {
        "first": "int8", "depthwise": "fp32", "pointwise": "int8", "join": "int8", "classes": "fp32",
    }  # fmt: skip


@pytest.mark.parametrize(
    "times",
    [
        {"fp32": 1.0, "int8": 2.0, "bf16": 3.0, "mixed": 1.5},
        {"fp32": 1.0, "int8": 0.99, "bf16": 1.0, "mixed": 1.0},
    ],
    ids=["slower", "equal"],
)
def test_auto_is_never_slower_than_fp32(
    times: dict[str, float], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    decided(monkeypatch, times, {"int8": {"first": 0.5}})
    result = compiled(tmp_path, "auto")
    assert result.evidence["precision"]["chosen"] == "fp32"
    assert not any("int8" in kernel.schedule for kernel in result.config.kernels.values())


def test_int8_that_is_slower_says_so_and_why(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    decided(monkeypatch, {"fp32": 1.0, "int8": 2.0}, {"int8": {"depthwise": 4.0}})
    result = compiled(tmp_path, "int8")
    (note,) = result.evidence["precision"]["notes"]
    assert "int8 is slower than fp32 here, 2 beside 1 ms" in note
    assert "depthwise (1 to 4 ms)" in note
    assert result.evidence["precision"]["chosen"] == "int8"  # as the user asked


@pytest.mark.skipif("avx512_bf16" not in machine_features(), reason="hardware: no products of bfloat16 here")
def test_bf16_that_is_slower_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    decided(monkeypatch, {"fp32": 1.0, "bf16": 1.7}, {"bf16": {"join": 3.0}})
    result = compiled(tmp_path, "bf16")
    assert "bf16 is slower than fp32 here, 1.7 beside 1 ms" in result.evidence["precision"]["notes"][0]
    counts = {v["name"]: v["layers_bf16"] for v in result.evidence["precision"]["variants"]}
    assert counts["fp32"] == 0
    assert 0 < counts["bf16"] < len(PRODUCTS)  # the depthwise one has no kernel in bfloat16


def test_a_bound_gives_layers_back_and_is_kept_by_the_artifact(int8: CompileResult, tmp_path: Path) -> None:
    everything = int8.evidence["precision"]["variants"][1]["quality"]["error"]
    notes = Notes()
    result = compiled(tmp_path, "int8", notes, max_error=everything * 0.7)
    found = result.evidence["precision"]
    assert found["chosen"] == "mixed"
    mixed = next(variant for variant in found["variants"] if variant["name"] == "mixed")
    assert 0 < mixed["layers_int8"] < len(PRODUCTS)
    assert mixed["quality"]["error"] <= everything * 0.7
    assert any(f"{mixed['layers_int8']} of 5 layers in int8" in note for note in notes.notes)
    assert all(narrow for name, (_, narrow) in counts(result).items() if name == "bf16")


def test_a_bound_that_cannot_be_kept_writes_nothing(tmp_path: Path) -> None:
    with pytest.raises(BoundNotMet, match="the bound cannot be kept in int8"):
        compiled(tmp_path, "int8", max_error=0.0)
    assert not list(tmp_path.glob("*.edge"))
    auto = compiled(tmp_path, "auto", max_error=0.0)
    assert auto.evidence["precision"]["chosen"] in ("fp32", "bf16")


def test_int8_without_data_says_how_much_is_needed(tmp_path: Path) -> None:
    model = save(network(), tmp_path)
    with pytest.raises(CalibrationError, match="100 to 500 pictures"):
        compile_model(model, detect(), CompileOptions(precision="int8"), output=tmp_path / "m.edge")
    data = Calibration(npz(tmp_path, pictures(64)))
    with pytest.raises(CalibrationError, match="fp32 needs no data"):
        compile_model(model, detect(), CompileOptions(calibration=data), output=tmp_path / "m.edge")
    assert not list(tmp_path.glob("*.edge"))


def automatic(folder: Path, target: str, notes: Notes | None = None) -> CompileResult:
    options = CompileOptions(precision="auto", tune="none", threads=1, error_budget=0.01, verify=False)
    model = save(network(), folder)
    return compile_model(model, load_target(target), options, output=folder / "auto.edge", progress=notes)


def counts(result: CompileResult) -> dict[str, tuple[int, int]]:
    """How many layers are in fp16 and bf16, by variant."""
    return {v["name"]: (v["layers_fp16"], v["layers_bf16"]) for v in result.evidence["precision"]["variants"]}


@pytest.mark.parametrize(
    ("target", "chosen"), [("sapphirerapids", "fp16"), ("rpi5", "fp16"), ("rpi4", "fp32"), ("zen5", "bf16")]
)
def test_auto_takes_what_multiplies_fastest_where_nothing_can_be_timed(
    target: str, chosen: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(_Chooser, "timed", property(lambda _self: False))
    notes = Notes()
    result = automatic(tmp_path, target, notes)
    assert result.evidence["precision"]["chosen"] == chosen
    assert result.config.in_half_precision == (chosen == "fp16")
    told = " ".join(lines(result.evidence["precision"]))
    assert ("estimated from the core's rates, not measured" in told) == (chosen != "fp32")
    if target == "sapphirerapids":
        assert "sapphirerapids multiplies 1 times as many numbers in bf16 as in fp32" in " ".join(notes.notes)
        assert counts(result)["fp16"][0] > 0


@pytest.mark.skipif("avx512_bf16" not in machine_features(), reason="hardware: no products of bfloat16 here")
@pytest.mark.parametrize(("budget", "chosen"), [(1e-4, "fp32"), (3e-3, "bf16")])
def test_auto_takes_fewer_layers_and_then_fp32_where_verification_refuses(
    budget: float, chosen: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The first choice of layers is made to trust bfloat16 beyond the budget; what refuses it is verification itself.

    At the smaller budget the others are not within it, either.
    """
    monkeypatch.setattr(_Chooser, "timed", property(lambda _self: False))
    honest = choice.choose_layers

    def trusting(source: Any, inputs: Arrays, _: float, operands: Any, limit: Limit) -> Any:
        first = 1.0 if math.isinf(limit.error) or budget == 1e-4 else budget
        return honest(source, inputs, first, BFLOAT16, limit)

    monkeypatch.setattr(choice, "choose_layers", trusting)
    notes = Notes()
    options = CompileOptions(precision="auto", tune="none", threads=1, error_budget=budget)
    model = save(network(), tmp_path)
    result = compile_model(model, load_target("zen4"), options, output=tmp_path / "m.edge", progress=notes)
    found = result.evidence["precision"]
    assert result.evidence["verified"]
    assert found["chosen"] == chosen
    told = " ".join(notes.notes)
    assert "tried again with fewer layers in bf16" in told
    assert ("computed in fp32 instead of bf16" in told) == (chosen == "fp32")
    assert any("failed verification" in note for note in found["notes"])
    narrow = [kernel.schedule for kernel in result.config.kernels.values() if "bf16" in kernel.schedule]
    assert bool(narrow) == (chosen == "bf16")
    (marked,) = [line for line in lines(found) if line.startswith("*")]
    assert marked.startswith(f"* {chosen}")


def test_auto_takes_for_each_layer_what_was_measured_to_be_fastest(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """No machine of ours has both: the times are the test's, and the code is compiled but not run."""
    monkeypatch.setattr(_Chooser, "timed", property(lambda _self: True))
    monkeypatch.setattr(variants.Variants, "error", lambda *_: 0.001)
    decided(
        monkeypatch,
        {"fp32": 5.0, "fp16": 4.0, "bf16": 6.0, "mixed": 3.0},
        {"fp16": {"first": 0.2, "depthwise": 2.0, "join": 0.5}, "bf16": {"first": 0.5, "join": 0.2}},
    )
    result = automatic(tmp_path, "sapphirerapids")
    assert result.evidence["precision"]["chosen"] == "mixed"
    assert counts(result)["mixed"] == (1, 1)
    decided(monkeypatch, {"fp32": 5.0, "fp16": 4.95, "bf16": 6.0, "mixed": 5.0}, {"fp16": {"first": 0.2}})
    assert automatic(tmp_path, "sapphirerapids").evidence["precision"]["chosen"] == "fp32"
    monkeypatch.setattr(variants.Variants, "error", lambda _self, name, _inputs: 0.5 * (name == "fp16"))
    decided(monkeypatch, {"fp32": 5.0, "fp16": 1.0, "bf16": 4.0, "mixed": 5.0}, {})
    assert automatic(tmp_path, "sapphirerapids").evidence["precision"]["chosen"] == "bf16"
