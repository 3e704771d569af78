"""The evidence of a compile, with and without proof."""

from __future__ import annotations

import json
from typing import Any

from edgec.compiler.lowered import Lowered, TuningSummary
from edgec.compiler.report.certificate import certify
from edgec.compiler.report.evidence import make_evidence
from edgec.compiler.verify.compare import OutputError
from edgec.compiler.verify.verification import Verification

ERROR = OutputError("y", "float32", (1, 2), 1e-6, 1e-6, 1.0, 0, ok=True)
LOWERED = Lowered(
    b"code", {}, {}, tuning=TuningSummary(workloads=3, cache_hits=1, timed=10, dropped=2, seconds=0.5)
)


def made(verification: Verification | None) -> dict[str, Any]:
    return make_evidence(
        verification, lowered=LOWERED, segments=(), sizes={"code_bytes": 4}, stages_s={"graph": 0.12345},
        inputs="made-up inputs", target="rpi5", certificate=certify(verification, "Some CPU", None),
    )  # fmt: skip


def proof(*errors: OutputError, **latency: float) -> Verification:
    sides = {side: {"median_ms": ms} for side, ms in latency.items()}
    return Verification(errors, 1e-3, "this machine", "onnxruntime 1", threads=2, latency=sides)


def test_a_proof_is_told_with_its_reference_and_budget() -> None:
    evidence = made(proof(ERROR, edgec=2.0, onnxruntime=5.0))
    assert evidence["verified"]
    assert (evidence["reference"], evidence["error_budget"], evidence["threads"]) == (
        "onnxruntime 1",
        1e-3,
        2,
    )
    assert evidence["outputs"][0]["max_rel"] == 1e-6
    assert evidence["speedup"] == 2.5
    tuning = {"workloads": 3, "cache_hits": 1, "timed": 10, "dropped": 2, "seconds": 0.5}
    assert evidence["tuning"] == tuning | {"gained_ms": 0.0, "left": 0}
    assert evidence["stages_s"] == {"graph": 0.123}
    assert json.loads(json.dumps(evidence))["target"] == "rpi5"


def test_one_output_that_is_off_is_no_proof() -> None:
    off = OutputError("z", "float32", (1,), 1.0, 1.0, 0.0, 0, ok=False)
    assert not made(proof(ERROR, off))["verified"]


def test_without_a_reference_beside_it_there_is_no_speedup() -> None:
    assert made(proof(ERROR, edgec=2.0))["speedup"] is None
    assert made(proof(ERROR))["speedup"] is None


def test_without_verification_the_reason_stands_in_its_place() -> None:
    evidence = made(None)
    assert not evidence["verified"]
    assert "--no-verify" in evidence["reason"]
    assert "outputs" not in evidence
