"""The evidence for an artifact: its measurements, as JSON in the artifact."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Any

import edgec.runtime as rt
from edgec.compiler.frontends.source import FallbackSegment
from edgec.compiler.lowered import Lowered
from edgec.compiler.report.certificate import Certificate
from edgec.compiler.verify.verification import Verification
from edgec.runtime.artifact.golden import GOLDEN_KEY
from edgec.targets import machine_arch, usable_cores

SCHEMA_VERSION = 1


def machine() -> dict[str, Any]:
    """This machine: processor, cores, operating system."""
    return {
        "cpu": _cpu_name(),
        "arch": machine_arch(),
        "cores": usable_cores(),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
    }


def _cpu_name() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return platform.processor() or "unknown"
    for line in text.splitlines():
        if line.startswith(("model name", "Model")):
            return line.partition(":")[2].strip()
    return platform.processor() or "unknown"


def versions() -> dict[str, str]:
    """Versions of the packages that take part in a compile."""
    packages = ("edgec", "apache-tvm", "apache-tvm-ffi", "onnx", "onnxruntime", "numpy")
    return {package: metadata.version(package) for package in packages}


def make_evidence(
    verification: Verification | None,
    *,
    lowered: Lowered,
    segments: Sequence[FallbackSegment],
    sizes: Mapping[str, int],
    stages_s: Mapping[str, float],
    inputs: str,
    target: str,
    certificate: Certificate,
) -> dict[str, Any]:
    """The evidence of one compile; `verification` is None when the user waived it."""
    evidence: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "verified": verification is not None and verification.ok and not verification.hollow,
        "target": target,
        "fallback": [{"nodes": list(s.nodes), "runs_in": "onnxruntime"} for s in segments],
        "sizes": dict(sizes),
        "tuning": {
            "workloads": lowered.tuning.workloads,
            "cache_hits": lowered.tuning.cache_hits,
            "timed": lowered.tuning.timed,
            "dropped": lowered.tuning.dropped,
            "seconds": lowered.tuning.seconds,
            "gained_ms": round(lowered.tuning.gained_ms, 4),
            "left": lowered.tuning.left,
        },
        "stages_s": {name: round(seconds, 3) for name, seconds in stages_s.items()},
        "machine": machine(),
        "versions": versions(),
        "certificate": certificate.to_json(),
    }
    if verification is None:
        return evidence | {"reason": "verification was switched off (--no-verify)"}
    latency = dict(verification.latency)
    ours, theirs = latency.get("edgec"), latency.get("onnxruntime")
    if verification.hollow:
        evidence["reason"] = verification.hollow
    return evidence | {
        "reference": verification.reference,
        "where": verification.where,
        "inputs": inputs,
        **({"steps": verification.steps} if verification.steps else {}),
        "error_budget": verification.budget,
        "outputs": verification.to_json()["errors"],
        "extremes": [asdict(judgement) for judgement in verification.extremes],
        "threads": verification.threads,
        "latency": latency,
        "speedup": theirs["median_ms"] / ours["median_ms"] if ours and theirs else None,
        "layers": list(verification.layers),
        GOLDEN_KEY: verification.golden,
    }


def bucket_evidence(config: rt.ArtifactConfig, proofs: Sequence[Verification]) -> list[dict[str, Any]]:
    """The measurements for each set of input shapes, in order; unverified sets have no errors."""
    found: list[dict[str, Any]] = []
    for number, variant in enumerate(config.variants()):
        shapes = {spec.name: list(spec.shape) for spec in variant.inputs}
        proof = proofs[number] if proofs else None
        told = {"outputs": proof.to_json()["errors"], "latency": dict(proof.latency)} if proof else {}
        found.append({"inputs": shapes} | told)
    return found
