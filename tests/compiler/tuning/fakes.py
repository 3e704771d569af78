"""A back end whose candidates cost what a test says, in no time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from edgec.compiler.backends.interface import CandidateFailed, Workload
from edgec.compiler.progress import Silent


class Clock:
    """Seconds that only builds move."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Notes(Silent):
    """Keeps what a compile notes and tells."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.details: list[str] = []

    def detail(self, text: str) -> None:
        self.details.append(text)

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

    def rest(self) -> None:
        pass

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
    clock: Clock = field(default_factory=Clock)
    build_s: float = 0.0

    def trials(self) -> FakeBackend:
        return self

    def add_all(self, kernels: Sequence[str]) -> list[FakeTrial | CandidateFailed]:
        return [self._add(kernel) for kernel in kernels]

    def again(self, trial: FakeTrial) -> FakeTrial:
        return trial

    def _add(self, kernel: str) -> FakeTrial | CandidateFailed:
        self.clock.now += self.build_s
        if kernel not in self.times:
            return CandidateFailed("no such register")
        output = np.full(4, self.outputs.get(kernel, 1.0), np.float32)
        trial = FakeTrial(kernel, list(self.times[kernel]), output)
        self.built.append(trial)
        return trial


def work_of(
    *candidates: str, epilogue: str = "relu", name: str = "conv", kind: str = "conv2d", flops: int = 1
) -> Workload:
    """A workload whose kernels are the candidates' names."""
    return Workload(
        f"{name}|{epilogue}", f"{name}|any", kind, flops, 1, 1, candidates, emit=lambda candidate: candidate
    )
