"""The certificate: what is said of a result's speed, from stored measurements."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from edgec.compiler.errors import NotFaster
from edgec.compiler.report.certificate import certify, layers_of, read_aloud, require_faster
from edgec.compiler.report.html import render
from edgec.compiler.verify.verification import Verification
from edgec.runtime.execution.profiling import BETWEEN
from edgec.targets.machine_rates import Level, MachineRates
from tests.compiler.report.test_html import evidence

RATES = MachineRates(
    "Some CPU", "zen4", "x86-64-v3", 2, 2.0, {"fp32": (100.0, 200.0), "bf16": (200.0, 400.0)}, 4.0,
    (Level("L1", 32 << 10, 1.0, (200.0, 400.0)), Level("L2", 1 << 20, 5.0, (100.0, 200.0)),
     Level("memory", 0, 100.0, (10.0, 20.0))),
)  # fmt: skip


def layer(name: str, ms: float, **facts: Any) -> dict[str, Any]:
    whole = {
        "kernel": name,
        "nodes": [name],
        "ms": ms,
        "op": "conv2d",
        "flops": 0,
        "bytes": 0,
        "schedule": "direct",
    }
    return whole | facts


LAYERS = (
    layer("good", 1.0, flops=180_000_000),  # 0.9 ms at 200 GFLOP/s
    layer("far", 4.0, flops=180_000_000, schedule="direct bf16"),
    layer("sum", 2.0, op="add", bytes=20_000_000, schedule="generic"),  # 1 ms at 20 GB/s
    layer("edgec.fallback.0", 3.0, nodes=["resize"], op="Resize"),
)
THEIRS = {"good": 1.5, "far": 1.0, "resize": 2.9, "": 0.5}


def proof(ours: float, theirs: float) -> Verification:
    def side(ms: float) -> dict[str, Any]:
        return {"median_ms": ms, "blocks_ms": [ms * 0.9, ms, ms * 1.1]}

    latency = {"edgec": side(ours), "onnxruntime": side(theirs) | {"blocks_ms": [theirs] * 3}}
    return Verification((), 1e-3, "this machine", "onnxruntime", 2, latency, LAYERS, reference_layers=THEIRS)


def test_a_slow_result_names_the_layers_at_fault_with_the_reason() -> None:
    found = certify(proof(10.0, 8.0), "Some CPU", RATES)
    assert (found.verdict, found.ratio, found.rounds, found.threads) == ("slower", 0.8, 3, 2)
    assert (found.low, found.high) == (pytest.approx(0.727, abs=1e-3), pytest.approx(0.889, abs=1e-3))
    assert found.fallback_share == 0.3
    faults = {fault["nodes"][0]: fault for fault in found.at_fault}
    assert next(iter(faults)) == "far"
    assert "good" not in faults
    assert faults["far"]["lost_ms"] == pytest.approx(3.0)
    assert "11% of what the machine can do, bound by arithmetic" in faults["far"]["why"]
    told = "\n".join(read_aloud(found.to_json()))
    for words in (
        "0.80 times its speed (from 0.73 to 0.89 in 3 rounds)",
        "30% of the time",
        "slower",
        "- far",
    ):
        assert words in told


def test_a_part_of_a_model_with_branches_is_not_at_fault_beside_its_own_layers() -> None:
    part = layer(BETWEEN, 12.0, nodes=[], op="", bytes=0)
    slow = proof(10.0, 8.0)
    found = certify(replace(slow, layers=(part, *slow.layers)), "Some CPU", RATES)
    assert found.at_fault[0]["nodes"] == ["far"]
    assert all(fault["nodes"] for fault in found.at_fault)


def test_the_limit_of_winograd_counts_what_its_tiles_multiply() -> None:
    profiled = [
        layer("tiles", 1.0, flops=90_000_000, schedule=f"winograd{m} 13x2 group2 rows1 by-tiles")
        for m in (2, 4)
    ]
    plain = layer("direct", 1.0, flops=90_000_000, schedule="direct 6x4 rows1")
    two, four, direct = (one.floor_ms or 0.0 for one in layers_of([*profiled, plain], RATES, 2))
    assert direct / two == pytest.approx(2.25, rel=1e-3)
    assert direct / four == pytest.approx(4.0, rel=1e-3)


def test_limits_come_from_the_data_type_and_from_where_the_bytes_are() -> None:
    by_name = {one.nodes[0]: one for one in certify(proof(10.0, 8.0), "Some CPU", RATES).layers}
    assert (by_name["good"].floor_ms, by_name["good"].bound) == (pytest.approx(0.9), "arithmetic")
    assert (by_name["far"].floor_ms, by_name["far"].bound) == (pytest.approx(0.45), "arithmetic")
    assert (by_name["sum"].floor_ms, by_name["sum"].bound) == (pytest.approx(1.0), "memory")
    assert by_name["resize"].floor_ms is None
    assert "left to ONNX Runtime" in by_name["resize"].why
    assert "generic" in by_name["sum"].why
    assert by_name["sum"].onnxruntime_ms is None


def test_a_fast_result_blames_no_layer() -> None:
    found = certify(proof(5.0, 8.0), "Some CPU", RATES)
    assert (found.verdict, found.ratio, found.at_fault) == ("faster", 1.6, ())
    require_faster(found)
    assert json.loads(json.dumps(found.to_json()))["layers"][0]["choice"] == "direct"
    assert not any("fault" in line for line in read_aloud(found.to_json()))


def test_what_was_measured_beside_other_programs_says_so_and_compares_the_fastest_runs() -> None:
    busy = proof(100.0, 900.0)
    for side, ms in (("edgec", 5.0), ("onnxruntime", 4.0)):
        busy.latency[side] |= {"min_ms": ms, "waited": 0.38}
    found = certify(busy, "Some CPU", RATES)
    assert (found.ms, found.onnxruntime_ms, found.ratio, found.verdict) == (5.0, 4.0, 0.8, "slower")
    told = "\n".join(read_aloud(found.to_json()))
    assert "the fastest run takes 5 ms and ONNX Runtime's 4 ms" in told
    assert "threads waited 38% of the time for a core" in told
    with pytest.raises(NotFaster, match="compile again when it is idle"):
        require_faster(found)


def test_what_must_be_faster_fails_when_it_is_slower_or_unmeasured() -> None:
    with pytest.raises(NotFaster, match=r"10 ms and ONNX Runtime 8 ms.*At fault: far"):
        require_faster(certify(proof(10.0, 8.0), "Some CPU", RATES))
    emulated = certify(None, "", None, "rpi5 does not run here")
    assert read_aloud(emulated.to_json()) == ["Speed was not measured: rpi5 does not run here."]
    with pytest.raises(NotFaster, match="rpi5 does not run here"):
        require_faster(emulated)


def test_the_report_shows_it() -> None:
    page = render("m", "host", evidence(certificate=certify(proof(10.0, 8.0), "Some CPU", RATES).to_json()))
    assert "<h2>Certificate</h2>" in page
    assert "0.80 times its speed" in page
    assert "ONNX Runtime ms" in page
