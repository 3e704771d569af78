"""Artifacts in the right form, for tests in which nothing runs them."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from edgec.runtime.artifact.config import ArtifactConfig, TensorSpec
from edgec.runtime.artifact.writer import write_artifact


def make_artifact(path: Path, name: str = "detector", version: str = "1", target: str = "x86-64-v3") -> str:
    """An artifact in the right form, with code that nobody runs here; its digest."""
    features = {"x86-64-v3": ("avx2", "fma"), "rpi5": ("asimd",)}.get(target, ())
    config = ArtifactConfig(
        name=name,
        version=version,
        target=target,
        arch="aarch64" if target.startswith("rpi") else "x86_64",
        required_features=features,
        inputs=(TensorSpec(name="x", safe_name="x", shape=(1, 4), dtype="float32"),),
        outputs=(TensorSpec(name="y", safe_name="y", shape=(1, 4), dtype="float32"),),
    )
    random = np.random.default_rng(len(name) + len(version))
    weights = {"w": random.normal(size=(64, 1024)).astype(np.float32)}
    evidence = {
        "verified": True,
        "outputs": [{"name": "y", "max_abs": 1.5e-6}],
        "latency": {"edgec": {"median_ms": 4.2}, "onnxruntime": {"median_ms": 6.3}},
    }
    report = (
        f"<html><body><h1>Report of {name} {version}</h1><script>document.title='x'</script></body></html>"
    )
    return write_artifact(
        path,
        config=config,
        code=b"\x7fELF" + version.encode() * 100,
        weights=weights,
        evidence=evidence,
        report_html=report,
    )
