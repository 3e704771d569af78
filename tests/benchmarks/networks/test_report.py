"""The results page: ratios, means by kind of network, and who is slower."""

from __future__ import annotations

import math
from pathlib import Path
from xml.etree import ElementTree

import pytest

from edgec.benchmarks.machine import code_digest
from edgec.benchmarks.networks.report import geometric_mean, results_file, write_report
from edgec.benchmarks.networks.results import Measurement, Results

MACHINE = {
    "versions": {"edgec": "1"}, "fp32_peak_gflops": {"1": 100.0}, "processor": "P", "cores": 2, "system": "Linux",
    "load": [0.0], "target": "host", "python": "3.11", "date": "2026-01-01", "tune": "none",
}  # fmt: skip


def measured(
    name: str,
    ours: list[float],
    theirs: list[float],
    group: str = "zoo",
    side: str = "onnxruntime",
    **fields: object,
) -> Measurement:
    sides = ("edgec", side)
    return Measurement(
        name, group, 1, {"edgec": ours, side: theirs}, first_ms=dict.fromkeys(sides, 5.0),
        resident=dict.fromkeys(sides, 10**6), size=dict.fromkeys(sides, 10**6), **fields,  # type: ignore[arg-type]
    )  # fmt: skip


def page(tmp_path: Path, *measurements: Measurement) -> str:
    _, path, plot = write_report(Results(MACHINE, list(measurements)), tmp_path, "some-cpu")
    ElementTree.parse(plot)
    return path.read_text(encoding="utf-8")


def test_a_ratio_is_the_median_with_its_extremes() -> None:
    one = measured("n", [1.0, 1.0, 2.0], [1.5, 3.0, 4.0])
    assert one.ratio("onnxruntime") == (2.0, 1.5, 3.0)


def test_means_are_geometric_and_name_the_slower_networks(tmp_path: Path) -> None:
    text = page(tmp_path, measured("fast", [1.0], [4.0]), measured("slow", [2.0], [1.0]))
    assert "| 1 | ONNX Runtime | 2 fp32 | **1.41×** | slow 0.50 |" in text
    assert "| **geometric mean** (2) |  |  | **1.41 (2)** |" in text
    assert geometric_mean([4, 0.5]) == pytest.approx(math.sqrt(2))
    assert math.isnan(geometric_mean([]))


def test_tiny_and_failed_networks_do_not_count_with_the_others(tmp_path: Path) -> None:
    failed = Measurement("broken", "zoo", 1, failure="out of | memory")
    text = page(tmp_path, measured("big", [1.0], [2.0]), measured("tiny", [0.01], [0.09]), failed)
    assert "| 1 | ONNX Runtime | 1 fp32 | **2.00×** | none |" in text
    assert "**tiny ones** (1)" in text
    assert "| broken | out of / memory |" in text


def test_strangers_come_first_and_each_kind_has_its_table(tmp_path: Path) -> None:
    text = page(
        tmp_path,
        measured("net", [1.0], [2.0]),
        measured("net-int8", [1.0], [3.0], "int8", quantised=True),
        measured("micro", [1.0], [4.0], "litert", "litert", quantised=True),
        measured("foreign", [1.0], [1.5], "stranger"),
    )
    heads = [line for line in text.splitlines() if line.startswith("## ") and "thread" in line]
    assert [head.split()[1].rstrip(":") for head in heads] == ["Strangers", "The", "The", "TensorFlow"]
    assert "| micro | 1.000 | 4.000 | 4.00 |" in text
    assert "| 1 | ONNX Runtime | 2 fp32 | **1.73×** | none |" in text
    assert "| 1 | LiteRT | 1 int8 | **4.00×** | none |" in text
    index = (tmp_path / "benchmarks.md").read_text()
    assert (
        "| [P](benchmarks/some-cpu.md) | 1 | 1.50 (1) | – | – | 1.73 (2) | – | 2026-01-01 | older |" in index
    )


def test_a_page_says_when_its_code_is_older(tmp_path: Path) -> None:
    now = MACHINE | {"code": code_digest(), "processor": "New"}
    Results(MACHINE, [measured("net", [1.0], [2.0])]).save(results_file(tmp_path, "old-cpu"))
    index, path, _ = write_report(Results(now, [measured("net", [1.0], [2.0])]), tmp_path, "new-cpu")
    assert "older code" not in path.read_text()
    assert "Measured on 2026-01-01 with older code" in (path.parent / "old-cpu.md").read_text()
    assert [line.split("|")[1].strip() for line in index.read_text().splitlines() if line.startswith("| [")] == [
        "[New](benchmarks/new-cpu.md)", "[P](benchmarks/old-cpu.md)",
    ]  # fmt: skip


def test_the_layers_furthest_from_the_limit_are_listed_over_all_models(tmp_path: Path) -> None:
    def layer(name: str, ms: float, floor: float) -> dict[str, object]:
        return {
            "nodes": [name],
            "op": "conv2d",
            "choice": "generic",
            "ms": ms,
            "floor_ms": floor,
            "bound": "L2",
        }

    text = page(
        tmp_path,
        measured("a", [1.0], [2.0], layers=[layer("near", 5.0, 4.9), layer("far", 3.0, 0.3)]),
        measured("b", [1.0], [2.0], layers=[layer("farthest", 9.0, 0.9)]),
    )
    listed = [line for line in text.splitlines() if "| conv2d |" in line]
    assert [line.split("|")[3].strip() for line in listed] == ["farthest", "far", "near"]
    assert listed[0].endswith("| 10% |")


def test_ratios_at_the_machines_limits_stand_beside_those_measured(tmp_path: Path) -> None:
    text = page(tmp_path, measured("a", [1.0], [2.0], floor_ms=0.5), measured("b", [1.0], [2.0]))
    assert "| a | 1.000 | 2.000 | 2.00 | 0.500: 4.00 |" in text
    assert "| b | 1.000 | 2.000 | 2.00 |  |" in text
    assert "| **geometric mean** (2) |  |  | **2.00 (2)** | 4.00 |" in text
    assert "at the limit" not in page(tmp_path, measured("b", [1.0], [2.0]))


def test_rows_of_a_slow_machine_are_named(tmp_path: Path) -> None:
    quiet = measured("quiet", [1.0], [2.0], speed_shares=[1.0])
    slow = measured("slow", [1.0], [2.0], speed_shares=[1.0, 0.61])
    assert "Disturbed nevertheless (threads, share of what would be enough): slow (1, 61%)\n" in page(
        tmp_path, quiet, slow
    )
