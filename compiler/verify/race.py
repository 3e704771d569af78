"""Measure several artifacts in turns in one process: latency and time per layer; and the memory of each alone."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from edgec.compiler.errors import CompilerError
from edgec.compiler.verify.inputs import Arrays

LIMIT_S = 900


@dataclasses.dataclass(frozen=True)
class Measured:
    """What was measured of one artifact.

    Attributes:
        median_ms, min_ms: of a run.
        block_ms: the median of the fastest block, by which variants are compared: neighbours slow some blocks down.
        resident_bytes: memory of a process that has loaded and run nothing else.
        layers: time per kernel, as the runtime's profile gives it.
    """

    median_ms: float
    min_ms: float
    block_ms: float
    resident_bytes: int
    layers: tuple[dict[str, Any], ...]


def measure(artifacts: Mapping[str, Path], inputs: Arrays, threads: int) -> dict[str, Measured]:
    """Measure artifacts of one model on this machine.

    Raises:
        CompilerError: one of them failed.
    """
    with tempfile.TemporaryDirectory(prefix="edgec-race-") as scratch:
        folder = Path(scratch)
        np.savez(folder / "inputs.npz", **{f"i{k}": array for k, array in enumerate(inputs.values())})  # type: ignore[arg-type]
        request: dict[str, Any] = {
            "inputs": str(folder / "inputs.npz"),
            "names": list(inputs),
            "threads": threads,
            "result": str(folder / "result.json"),
        }
        resident = {
            name: int(_run(folder, request | {"artifacts": {name: str(path)}, "times": False})[name])
            for name, path in artifacts.items()
        }
        every = {name: str(path) for name, path in artifacts.items()}
        times = _run(folder, request | {"artifacts": every, "times": True})
    return {
        name: Measured(
            times[name]["median_ms"],
            times[name]["min_ms"],
            min(times[name]["blocks_ms"]),
            resident[name],
            tuple(times[name]["layers"]),
        )
        for name in artifacts
    }


def _run(folder: Path, request: Mapping[str, Any]) -> dict[str, Any]:
    path = folder / "request.json"
    path.write_text(json.dumps(request), encoding="utf-8")
    command = [sys.executable, "-m", "edgec.compiler.verify.race_child", str(path)]
    done = subprocess.run(command, capture_output=True, timeout=LIMIT_S, check=False)
    if done.returncode:
        lines = done.stderr.decode(errors="replace").strip().splitlines()
        raise CompilerError(f"measuring the artifact failed: {lines[-1] if lines else done.returncode}")
    found: dict[str, Any] = json.loads(Path(request["result"]).read_text(encoding="utf-8"))
    return found
