"""A well-formed artifact for rollouts, which is never run."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from edgec.benchmarks.fleet.stage import Stage
from edgec.fleet.client.connection import FleetClient
from edgec.fleet.client.push import push_artifact
from edgec.runtime.artifact.config import ArtifactConfig, TensorSpec
from edgec.runtime.artifact.writer import write_artifact


def push(place: Stage, name: str, version: str) -> str:
    """Push one and return its digest."""
    config = ArtifactConfig(
        name=name, version=version, target="x86-64-v3", arch="x86_64", required_features=("avx2", "fma"),
        inputs=(TensorSpec(name="x", safe_name="x", shape=(1, 4), dtype="float32"),),
        outputs=(TensorSpec(name="y", safe_name="y", shape=(1, 4), dtype="float32"),),
    )  # fmt: skip
    path: Path = place.folder / f"{name}-{version}.edge"
    weights = {"w": np.zeros((64, 64), np.float32)}
    write_artifact(path, config=config, code=b"\x7fELF" + version.encode() * 100, weights=weights)
    with FleetClient(place.url, place.token) as client:
        return push_artifact(client, path, None, None, lambda *_: None).digest
