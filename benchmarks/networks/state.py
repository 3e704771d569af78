"""Whether the machine runs as fast as it can while something is measured on it."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np
import tvm
from tvm import tirx
from tvm.tirx import BufferStore, PrimFunc, Stmt

from edgec.compiler.backends.cpu.templates.loop_nests import Expr, const, loop, parallel
from edgec.compiler.backends.cpu.timing import build
from edgec.compiler.backends.interface import Backend
from edgec.targets.target import Target

TRIES = 5
PEAK, EXCHANGE = 0.93, 0.7  # shares of the fastest from which the machine counts as undisturbed
LINES, LINE = 256, 16  # cache lines that each thread reads from another; numbers in one
_LOOK_S = 0.06

T = TypeVar("T")


@dataclass(frozen=True)
class Judged(Generic[T]):
    """A measurement, and how undisturbed the machine was before and after it: 1, or the lower of both shares."""

    made: T
    share: float


class Watch:
    """One thing that the machine does, beside the fastest that it was seen to do it.

    Args:
        rate: measures the current rate, in any unit, in well under a millisecond.
        enough: share of the fastest from which it counts as undisturbed.
        fastest: the highest rate seen so far, in the same unit; 0 if unknown.
    """

    def __init__(self, rate: Callable[[], float], enough: float, fastest: float = 0.0) -> None:
        self._rate, self._enough, self._fastest = rate, enough, fastest

    def share(self) -> float:
        """1 where the median rate of a short while is enough, else its share of what would be."""
        rates, until = [self._rate()], time.perf_counter() + _LOOK_S
        while time.perf_counter() < until:
            rates.append(self._rate())
        rate = statistics.median(rates)
        self._fastest = max(self._fastest, rate)
        return min(1.0, rate / (self._fastest * self._enough))


class MachineState:
    """Compares what the machine does now with the fastest that it was seen to do.

    A hypervisor moves virtual cores between real ones, for seconds or minutes: to cores that share no cache, or two of
    them to one. Every runtime then takes up to 1.7 times as long on two threads, and nothing inside the machine tells
    but the speed of its arithmetic and of its cores' exchange.
    """

    def __init__(self, watches: Sequence[Watch]) -> None:
        self._watches = watches

    def share(self) -> float:
        """1 where nothing is disturbed, else the lowest share of what would be enough."""
        return min(watch.share() for watch in self._watches)

    def judged(self, measure: Callable[[], T]) -> Judged[T]:
        """Measure until the machine was undisturbed before and after, or `TRIES` times.

        Only the machine's state decides which measurement counts, never what was measured.
        """
        best: Judged[T] | None = None
        for _ in range(TRIES):
            before = self.share()
            made = measure()
            share = min(before, self.share())
            if best is None or share > best.share:
                best = Judged(made, share)
            if share >= 1:
                break
        assert best is not None
        return best


class ExchangeProbe:
    """Measures how many cache lines a second each thread reads that another wrote just before.

    Requires what `PeakProbe` does.
    """

    def __init__(self, target: Target, threads: int) -> None:
        self._call = build(_exchange(threads), tvm.target.Target(dict(target.tvm)))["kernel"]
        zeros = np.zeros((threads, LINES, LINE), np.float32)
        self._arrays = tvm.runtime.tensor(zeros), tvm.runtime.tensor(zeros)

    def __call__(self) -> float:
        """Lines a second, there and back."""
        here, there = self._arrays
        begin = time.perf_counter()
        self._call(here, there)
        self._call(there, here)
        return 2 * LINES / (time.perf_counter() - begin)


def _exchange(threads: int) -> PrimFunc:
    shape = (threads, LINES, LINE)
    read, written = tirx.decl_buffer(shape, "float32", "read"), tirx.decl_buffer(shape, "float32", "written")

    def task(t: Expr) -> Stmt:
        other = tirx.indexmod(t + const(1), const(threads))

        def line(i: Expr) -> Stmt:
            value = read.vload([other, i, const(0)]) + tirx.const(1, "float32")
            return BufferStore(written, value, [t, i, const(0)])

        return loop(LINES, line, "line")

    func = PrimFunc([read, written], parallel([threads], task, threads))
    return func.with_attrs({"tirx.noalias": True, "s_tir": True})


def states(backend: Backend, threads: Iterable[int]) -> dict[int, MachineState]:
    """The state with each number of threads; empty where the target's code does not run here."""
    found: dict[int, MachineState] = {}
    for count in threads:
        probes = backend.probes(count)
        if probes is None:
            continue
        watches = [Watch(probes.peak, PEAK, backend.fp32_peak_gflops(count))]
        if count > 1:
            exchange = Watch(ExchangeProbe(backend.target, count), EXCHANGE)
            exchange.share()
            watches.append(exchange)
        found[count] = MachineState(watches)
    return found
