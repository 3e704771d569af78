"""A run of the suite adds to what an earlier one left, and never mixes what cannot be compared."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from edgec.benchmarks.machine import code_digest
from edgec.benchmarks.networks.catalogue import Network
from edgec.benchmarks.networks.report import results_file, write_report
from edgec.benchmarks.networks.results import Measurement
from edgec.benchmarks.networks.suite import Plan, run_suite
from edgec.compiler.options import CompileOptions
from edgec.targets import EdgecError, detect

DONE = Measurement(
    "net", "zoo", 1,
    {"edgec": [1.0, 1.1, 1.0], "onnxruntime": [2.0, 2.2, 3.0]}, 1e-6,
    {"edgec": 10.0, "onnxruntime": 20.0}, {"edgec": 10**7, "onnxruntime": 2 * 10**7},
    {"edgec": 10**6, "onnxruntime": 10**6}, 3.0,
)  # fmt: skip


NAME = "cpu"


def _left_behind(folder: Path, target: str, code: str | None = None) -> Path:
    file = results_file(folder, NAME)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(
        json.dumps(
            {
                "machine": {"target": target, "code": code or code_digest(), "fp32_peak_gflops": {"1": 1e6}},
                "measurements": [asdict(DONE)],
            }
        )
    )
    return file


def test_a_resumed_run_keeps_what_is_measured_and_writes_the_page(tmp_path: Path) -> None:
    target = detect()
    file = _left_behind(tmp_path, target.name)
    results = run_suite([], Plan(target, (1,), file, resume=True), CompileOptions(), lambda _: None)
    assert results.measurements == [DONE]
    _, page, plot = write_report(results, tmp_path, NAME)
    text = page.read_text()
    assert "2.00 (2.00–3.00)" in text
    assert "geometric mean" in text
    assert results.machine["fp32_peak_gflops"]["1"] == 1e6, "the highest rate of all runs is the peak"
    assert f"images/{plot.name}" in text
    assert plot.read_text().startswith("<svg")


def test_measurements_of_older_code_are_not_added_to(tmp_path: Path) -> None:
    target = detect()
    file = _left_behind(tmp_path, target.name, code="older")
    assert not run_suite(
        [], Plan(target, (1,), file, resume=True), CompileOptions(), lambda _: None
    ).measurements


@pytest.mark.parametrize("resume", [True, False])
def test_a_run_for_another_target_does_not_mix_its_numbers(tmp_path: Path, resume: bool) -> None:
    file = _left_behind(tmp_path, "another")
    plan = Plan(detect(), (1,), file, resume=resume, partial=True)
    with pytest.raises(EdgecError, match="another target"):
        run_suite([], plan, CompileOptions(), lambda _: None)


def test_results_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    file = results_file(tmp_path, NAME)
    file.parent.mkdir(parents=True)
    file.write_text("{")
    with pytest.raises(EdgecError, match=r"cpu\.json"):
        run_suite([], Plan(detect(), (1,), file, resume=True), CompileOptions(), lambda _: None)


def test_the_page_names_what_is_not_measured_yet(tmp_path: Path) -> None:
    target = detect()
    file = _left_behind(tmp_path, target.name)
    plan = Plan(target, (1,), file, resume=True, seconds=-1.0)
    chosen = [Network("net", "zoo"), Network("another", "zoo")]
    results = run_suite(chosen, plan, CompileOptions(), lambda _: None)
    _, page, _ = write_report(results, tmp_path, NAME)
    assert "Not measured yet (threads in brackets; `--resume` goes on): another (1)\n" in page.read_text()


def test_a_whole_run_begins_anew(tmp_path: Path) -> None:
    target = detect()
    file = _left_behind(tmp_path, target.name)
    assert not run_suite([], Plan(target, (1,), file), CompileOptions(), lambda _: None).measurements


def test_models_with_integer_products_count_apart(tmp_path: Path) -> None:
    slow = {"edgec": [4.0, 4.0, 4.0], "onnxruntime": [1.0, 1.0, 1.0]}
    whole = replace(DONE, network="whole", latency_ms=slow, quantised=True)
    results = run_suite(
        [], Plan(detect(), (1,), results_file(tmp_path, NAME)), CompileOptions(), lambda _: None
    )
    results.measurements.extend([DONE, whole])
    text = write_report(results, tmp_path, NAME)[1].read_text()
    assert "| 1 | ONNX Runtime | 1 fp32 | **2.00×** | none |" in text
    assert "| 1 | ONNX Runtime | 1 int8 | **0.25×** | whole 0.25 |" in text
