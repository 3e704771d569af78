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
    compile_cpu_s: float = 0.0  # of all cores
    layers: list[dict[str, Any]] = field(default_factory=list)  # furthest from what the machine can do
    floor_ms: float = 0.0  # what all layers would take at the machine's limits; 0 where that was not measured
    quantised: bool = False  # the model comes with int8 products, which the other sides compute as such
    sampled: dict[str, list[int]] = field(
        default_factory=dict
    )  # of restricted sides: interruptions, at AVX-512
    speed_shares: list[float] = field(
        default_factory=list
    )  # 1 where the machine was undisturbed around a repeat

    def ratio(self, side: str) -> tuple[float, float, float]:
        """How many times as fast as `side`: median over the repeats, lowest, highest."""
        ratios = sorted(b / a for a, b in zip(self.latency_ms["edgec"], self.latency_ms[side], strict=True))
        return ratios[len(ratios) // 2], ratios[0], ratios[-1]

    def at_limit(self, side: str) -> float:
        """How many times as fast as `side` it would be if all layers took what the machine's limits allow."""
        times = sorted(self.latency_ms[side])
        return times[len(times) // 2] / self.floor_ms


@dataclass(frozen=True)
class Results:
    """A run of the suite."""

    machine: dict[str, Any]
    measurements: list[Measurement]

    def to_json(self) -> dict[str, Any]:
        """Everything, as JSON-serialisable values."""
        return {"machine": self.machine, "measurements": [asdict(m) for m in self.measurements]}

    @staticmethod
    def load(file: Path) -> Results:
        """The results in a file.

        Raises:
            EdgecError: it is no results file.
        """
        from edgec.targets.errors import EdgecError

        try:
            content = json.loads(file.read_text(encoding="utf-8"))
            return Results(dict(content["machine"]), [Measurement(**one) for one in content["measurements"]])
        except (OSError, ValueError, KeyError, TypeError) as error:
            message = f"{file} is not a results file of this suite: remove it to start afresh ({error})"
            raise EdgecError(message) from error

    def save(self, file: Path) -> None:
        """Write everything to a JSON file, atomically."""
        file.parent.mkdir(parents=True, exist_ok=True)
        new = file.with_name(f".{file.name}.new")
        new.write_text(json.dumps(self.to_json(), indent=1) + "\n", encoding="utf-8")
        new.replace(file)
