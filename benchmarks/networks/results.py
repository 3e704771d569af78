"""Measurements of the suite, and the file that holds them between runs."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Measurement:
    """One network at one number of threads; latencies are medians in milliseconds, one per repeat."""

    network: str
    group: str
    threads: int
    latency_ms: dict[str, list[float]] = field(default_factory=dict)
    error: float = 0.0
    first_ms: dict[str, float] = field(default_factory=dict)
    resident: dict[str, int] = field(default_factory=dict)
    size: dict[str, int] = field(default_factory=dict)
    compile_s: float = 0.0
    failure: str = ""
    tune: str = ""  # how its kernels were chosen
    quantised: bool = False  # the model comes with int8 products, which the other sides compute as such

    def ratio(self, side: str) -> tuple[float, float, float]:
        """How many times as fast as `side`: median over the repeats, lowest, highest."""
        ratios = sorted(b / a for a, b in zip(self.latency_ms["edgec"], self.latency_ms[side], strict=True))
        return ratios[len(ratios) // 2], ratios[0], ratios[-1]


@dataclass(frozen=True)
class Results:
    """A run of the suite."""

    machine: dict[str, Any]
    measurements: list[Measurement]

    def to_json(self) -> dict[str, Any]:
        """Everything, as JSON-serialisable values."""
        return {"machine": self.machine, "measurements": [asdict(m) for m in self.measurements]}

    def save(self, file: Path) -> None:
        """Write everything to a JSON file, atomically."""
        file.parent.mkdir(parents=True, exist_ok=True)
        new = file.with_name(f".{file.name}.new")
        new.write_text(json.dumps(self.to_json(), indent=1) + "\n", encoding="utf-8")
        new.replace(file)
