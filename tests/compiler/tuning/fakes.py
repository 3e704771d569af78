"""A back end whose candidates cost what a test says, in no time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from edgec.compiler.backends.interface import CandidateFailed, Workload
from edgec.compiler.progress import Silent


class Notes(Silent):
    """Keeps what a compile notes."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def note(self, text: str) -> None:
        self.lines.append(text)


@dataclass
class FakeTrial:
    """Each measurement takes the next of some times; the last one stays."""

    name: str
    times: list[float]
    output: np.ndarray
    best_s: float = float("inf")
    measured: int = 0

    def time(self, budget_s: float) -> None:
        self.best_s = min(self.best_s, self.times[min(self.measured, len(self.times) - 1)])
        self.measured += 1


@dataclass
class FakeBackend:
    """`times` in seconds by candidate; a candidate without times does not build."""

    times: Mapping[str, Sequence[float]]
    outputs: Mapping[str, float] = field(default_factory=dict)
    can_time: bool = True
    winners_key: str = "fake"
    shipped_keys: tuple[str, ...] = ("nothing is shipped for it",)
    built: list[FakeTrial] = field(default_factory=list)

    def trials(self) -> FakeBackend:
        return self

    def add(self, kernel: str) -> FakeTrial:
        if kernel not in self.times:
            raise CandidateFailed("no such register")
        trial = FakeTrial(
            kernel, list(self.times[kernel]), np.full(4, self.outputs.get(kernel, 1.0), np.float32)
        )
        self.built.append(trial)
        return trial


def work_of(*candidates: str, epilogue: str = "relu") -> Workload:
    """A workload whose kernels are the candidates' names."""
    return Workload(
        f"conv|{epilogue}", "conv|any", "conv2d", 1, 1, 1, candidates, emit=lambda candidate: candidate
    )
