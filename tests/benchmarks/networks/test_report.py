"""The results page: ratios, means by kind of network, and who is slower."""

from __future__ import annotations

import math
from pathlib import Path
from xml.etree import ElementTree

import pytest

from edgec.benchmarks.networks.report import geometric_mean, write_report
from edgec.benchmarks.networks.results import Measurement, Results

MACHINE = {
    "versions": {"edgec": "1"}, "fp32_peak_gflops": {"1": 100.0}, "processor": "P", "cores": 2, "system": "Linux",
    "load": [0.0], "target": "host", "python": "3.11", "date": "2026-01-01", "tune": "none",
}  # fmt: skip


def measured(name: str, ours: list[float], theirs: list[float], **fields: object) -> Measurement:
    sides = ("edgec", "onnxruntime")
    return Measurement(
        name, "zoo", 1, {"edgec": ours, "onnxruntime": theirs}, first_ms=dict.fromkeys(sides, 5.0),
        resident=dict.fromkeys(sides, 10**6), size=dict.fromkeys(sides, 10**6), **fields,  # type: ignore[arg-type]
    )  # fmt: skip


def page(tmp_path: Path, *measurements: Measurement) -> str:
    path, plot = write_report(Results(MACHINE, list(measurements)), tmp_path)
    ElementTree.parse(plot)
    return path.read_text(encoding="utf-8")


def test_a_ratio_is_the_median_with_its_extremes() -> None:
    one = measured("n", [1.0, 1.0, 2.0], [1.5, 3.0, 4.0])
    assert one.ratio("onnxruntime") == (2.0, 1.5, 3.0)


def test_means_are_geometric_and_name_the_slower_networks(tmp_path: Path) -> None:
    text = page(tmp_path, measured("fast", [1.0], [4.0]), measured("slow", [2.0], [1.0]))
    assert "| 1 | ONNX Runtime | 2 fp32 | **1.41×** | slow 0.50 |" in text
    assert "| **geometric mean** (2) |  |  | **1.41** |" in text
    assert geometric_mean([4, 0.5]) == pytest.approx(math.sqrt(2))
    assert math.isnan(geometric_mean([]))


def test_tiny_and_failed_networks_do_not_count_with_the_others(tmp_path: Path) -> None:
    failed = Measurement("broken", "zoo", 1, failure="out of | memory")
    text = page(tmp_path, measured("big", [1.0], [2.0]), measured("tiny", [0.01], [0.09]), failed)
    assert "| 1 | ONNX Runtime | 1 fp32 | **2.00×** | none |" in text
    assert "**tiny ones** (1)" in text
    assert "| broken | out of / memory |" in text
