"""Timing a real model's layers beside a machine whose measurements are made up."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import cycle
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from onnx import helper

import edgec.runtime as rt
from edgec.benchmarks.roofline import shares
from edgec.benchmarks.roofline.plot import write_plot
from edgec.benchmarks.roofline.profile import Machine, profile_layers
from edgec.benchmarks.roofline.shares import ENOUGH, PeakSpread
from edgec.cli.profile import show_machine
from edgec.compiler.options import CompileOptions
from edgec.compiler.pipeline import compile_model
from edgec.compiler.progress import Silent
from edgec.targets import detect
from edgec.targets.measured_rates import Bandwidth
from tests.compiler.onnx_models import model_of, save

HERE = Bandwidth(1 << 20, 32 << 20, l2=80.0, l3=20.0, memory=10.0)


class Stages(Silent):
    """Notes what it is told."""

    def __init__(self) -> None:
        self.stages: list[tuple[str, int | None]] = []
        self.steps = 0

    def stage(self, name: str, total: int | None = None) -> None:
        self.stages.append((name, total))

    def advance(self, n: int = 1) -> None:
        self.steps += n


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Iterator[rt.Model]:
    folder = tmp_path_factory.mktemp("layers")
    nodes = [helper.make_node("Conv", ["x", "w"], ["c"]), helper.make_node("Softmax", ["c"], ["y"], axis=1)]
    weights = {"w": np.ones((16, 8, 1, 1), "float32")}
    source: Path = save(model_of(nodes, {"x": [1, 8, 6, 6]}, ["y"], weights), folder, "two.onnx")
    options = CompileOptions(threads=1, tune="none", verify=False)
    made = compile_model(source, detect(), options, output=folder / "two.edge", progress=Silent())
    with rt.load(made.artifact, threads=1) as loaded:
        yield loaded


def machine(speeds: Callable[[], float]) -> Machine:
    return Machine(
        speed=speeds, peak=lambda: 150.0, bandwidth=lambda: HERE
    )  # how fast an idle loop is, is not known


def inputs() -> dict[str, Any]:
    return {"x": np.ones((1, 8, 6, 6), "float32")}


def test_a_quiet_machine_is_measured_once_for_each_run(model: rt.Model) -> None:
    told = Stages()
    profile = profile_layers(model, inputs(), machine(lambda: 7.0), runs=12, limit_s=60, progress=told)
    assert (told.stages, told.steps, profile.runs) == ([("profile", 12)], 12, 12)
    assert profile.peak is not None
    assert (profile.peak.high, profile.peak.steady, profile.left_out, profile.disturbed) == (
        pytest.approx(150), True, 0, 0,
    )  # fmt: skip
    conv = next(row for row in profile.to_json() if row["op"] == "conv2d")
    assert conv["flops"] == 2 * 16 * 8 * 36
    assert conv["weight_bytes"] >= 16 * 8 * 4
    assert conv["peak_share_quartiles"][0] <= conv["peak_share"] <= conv["peak_share_quartiles"][1]


def test_runs_go_on_until_there_are_enough_undisturbed_ones(model: rt.Model) -> None:
    told = Stages()
    layers = len(model.profile(inputs(), 1))
    busy, free = [50.0] * (layers + 1) * 17, [100.0] * (layers + 1) * 3
    speeds = cycle(free + busy)  # a neighbour in 17 of 20 runs
    profile = profile_layers(
        model, inputs(), machine(lambda: next(speeds)), runs=10, limit_s=60, progress=told
    )
    assert told.stages == [("profile", 10), ("undisturbed", None)]
    assert profile.disturbed == 0
    assert all(share.runs - share.left_out >= ENOUGH for share in profile.shares)
    assert all(share.left_out > 0 for share in profile.shares)
    assert profile.peak is not None
    assert not profile.peak.steady


def test_a_limit_ends_it_and_without_a_machine_there_are_times_only(model: rt.Model) -> None:
    speeds = cycle([10.0, 20.0, 40.0, 80.0])  # never the same twice
    profile = profile_layers(
        model, inputs(), machine(lambda: next(speeds)), runs=5, limit_s=0.2, progress=Stages()
    )
    assert profile.runs >= 1
    assert profile.disturbed
    assert all(share.left_out == 0 for share in profile.shares if not share.undisturbed)
    plain = profile_layers(model, inputs(), None, runs=3, limit_s=60, progress=Stages())
    assert (plain.runs, plain.shares, plain.peak) == (3, (), None)
    assert "peak_share" not in plain.to_json()[0]


def test_no_more_runs_begin_after_a_wait_in_vain(model: rt.Model) -> None:
    told = Stages()

    def speed() -> float:
        return 50.0 if ("undisturbed", None) in told.stages else next(speeds)

    speeds = cycle([50.0, 100.0])  # each run begins well, and is disturbed
    profile = profile_layers(model, inputs(), machine(speed), runs=5, limit_s=0.5, progress=told)
    assert profile.runs <= 5
    assert profile.disturbed


@pytest.mark.parametrize("rates", [(80.0, 79.0), (80.0, 110.0)])
def test_a_smaller_core_is_told_from_a_busy_machine(
    model: rt.Model, rates: tuple[float, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shares, "WATCHED_S", 0.2)
    speeds = cycle(rates)
    known = replace(machine(lambda: next(speeds)), reach=0.93)
    profile = profile_layers(model, inputs(), known, runs=5, limit_s=0.3, progress=Stages())
    assert bool(profile.disturbed) == (rates[1] > rates[0])


def test_marks_are_explained_on_a_machine_that_is_nearly_steady(
    model: rt.Model, capsys: pytest.CaptureFixture[str]
) -> None:
    profile = profile_layers(model, inputs(), machine(lambda: 7.0), runs=3, limit_s=60, progress=Stages())
    known = replace(profile, peak=PeakSpread(140.0, 138.0, 150.0))
    marked = replace(known, shares=tuple(replace(share, undisturbed=False) for share in known.shares))
    show_machine(marked)
    said = capsys.readouterr().out
    assert "unsteady" not in said
    assert f"~ marks layers ({len(profile.layers)})" in said


def test_a_picture_names_the_layers(model: rt.Model, tmp_path: Path) -> None:
    profile = profile_layers(model, inputs(), machine(lambda: 7.0), runs=3, limit_s=60, progress=Stages())
    write_plot(profile, "two <1>", 1, tmp_path / "two.svg")
    picture = ElementTree.parse(tmp_path / "two.svg").getroot()
    words = "".join(picture.itertext())
    assert "two <1>" in words
    assert all(", ".join(layer.nodes) in words for layer in profile.layers)
    assert "150 GFLOP/s" in words
    assert [path.name for path in tmp_path.iterdir()] == ["two.svg"]
