"""Whether the machine runs as fast as it can while something is measured on it."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Generic, TypeVar

from edgec.compiler.backends.interface import Backend

ENOUGH = 0.93  # of the machine's fastest: below it a measurement is repeated
TRIES = 5
_LOOK_S = 0.06

T = TypeVar("T")


@dataclass(frozen=True)
class Judged(Generic[T]):
    """A measurement, and the lower of the shares of its fastest rate that the machine had before and after it."""

    made: T
    share: float


class MachineState:
    """Compares what the machine does now with the fastest that it was seen to do.

    A hypervisor moves virtual cores between real ones: for seconds, two of them may share one, and every runtime then
    takes up to 1.7 times as long on two threads. Nothing inside the machine tells but its speed.

    Args:
        rate: measures the current rate with all threads, in any unit, in well under a millisecond.
        fastest: the highest rate seen so far, in the same unit; 0 if unknown.
    """

    def __init__(self, rate: Callable[[], float], fastest: float = 0.0) -> None:
        self._rate, self._fastest = rate, fastest

    def share(self) -> float:
        """The median rate of a short while, as a share of the fastest."""
        rates, until = [self._rate()], time.perf_counter() + _LOOK_S
        while time.perf_counter() < until:
            rates.append(self._rate())
        self._fastest = max(self._fastest, *rates)
        return statistics.median(rates) / self._fastest

    def judged(self, measure: Callable[[], T]) -> Judged[T]:
        """Measure until the machine was at its fastest before and after, or `TRIES` times.

        Only the machine's state decides which measurement counts, never what was measured.
        """
        best: Judged[T] | None = None
        for _ in range(TRIES):
            before = self.share()
            made = measure()
            share = min(before, self.share())
            if best is None or share > best.share:
                best = Judged(made, share)
            if share >= ENOUGH:
                break
        assert best is not None
        return best


def states(backend: Backend, threads: Iterable[int]) -> dict[int, MachineState]:
    """The state with each number of threads; empty where the target's code does not run here."""
    found: dict[int, MachineState] = {}
    for count in threads:
        probes = backend.probes(count)
        if probes is not None:
            found[count] = MachineState(probes.peak, backend.fp32_peak_gflops(count))
    return found
