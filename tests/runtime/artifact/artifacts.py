"""A small artifact to write and read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import numpy as np

import edgec.runtime as rt

CARD = msgspec.convert(
    {
        "input": {"kind": "image", "width": 8, "height": 8},
        "output": {"decoder": "classification"},
        "labels": ["cat", "dög"],
    },
    rt.ModelCard,
)


def config(**changes: Any) -> rt.ArtifactConfig:
    one = rt.TensorSpec(name="x", safe_name="x", shape=(1, 3), dtype="float32")
    fields: dict[str, Any] = {
        "name": "m",
        "target": "rpi5",
        "arch": "aarch64",
        "inputs": (one,),
        "outputs": (one,),
    }
    return rt.ArtifactConfig(**fields | {"weights": ("w", "b"), "pipeline": CARD} | changes)


def write(path: Path, **changes: Any) -> str:
    weights = {"w": np.arange(70, dtype=np.float32).reshape(7, 10), "b": np.ones(3, np.int8)}
    return rt.write_artifact(
        path, config=config(**changes), code=b"\x7fELF code", weights=weights, evidence={"error": 1e-7}
    )
