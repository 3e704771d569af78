"""Latency of several runtimes in one process, each timed in blocks of its own.

ONNX Runtime's and OpenVINO's worker threads spin for milliseconds after a call. Where the sides alternate call by call
at two threads, each is measured beside the other's spinning threads: the same networks came to 1.12 times ONNX Runtime
that way, and to 1.43 in blocks of 0.3 s a side whose first 60 ms do not count.

Other programs disturb a block when its threads, ready to run, have to wait for a core, or when a hypervisor gives the
core to another machine. The kernel counts both. Rounds in which a side was disturbed do not count if there are others.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean, median
from typing import Any

BLOCK_S = 0.3  # one side's turn
SETTLE_S = 0.06  # its beginning, which does not count: until then the other side's threads may spin
LEAST = 2  # counted runs of a block, however slow the model is
# Of a block's time, for which one of its threads may wait before it counts as disturbed: housekeeping takes some 1 %.
WAITING = 0.05

Clock = Callable[[], float]
Waits = Callable[[], Mapping[str, float]]


@dataclass(frozen=True)
class Latency:
    """Times of single runs in milliseconds.

    `blocks_ms` are the medians of the blocks, in order. `waited` is the part of the time in which a thread was ready to
    run and had no core; 0 where no counted block was disturbed.
    """

    runs: int
    median_ms: float
    p90_ms: float
    min_ms: float
    mean_ms: float
    blocks_ms: tuple[float, ...] = ()
    waited: float = 0.0

    def to_json(self) -> dict[str, Any]:
        """The fields as JSON-serialisable values."""
        return asdict(self)


@dataclass(frozen=True)
class Ratio:
    """How many times as fast one side is as another: of the medians, and the lowest and highest of any round."""

    middle: float
    low: float
    high: float


@dataclass(frozen=True)
class _Block:
    """Seconds of each counted run of a block, and the part of its time for which one of its threads waited."""

    times_s: Sequence[float]
    waited: float

    @property
    def disturbed(self) -> bool:
        return self.waited > WAITING


def summarise(times_s: Sequence[float], blocks_s: Sequence[float] = (), waited: float = 0.0) -> Latency:
    """Median, 90th percentile, minimum and mean of run times in seconds."""
    ordered = sorted(times_s)
    p90 = ordered[min(len(ordered) - 1, int(0.9 * len(ordered)))]
    average, blocks = sum(ordered) / len(ordered), tuple(block * 1e3 for block in blocks_s)
    return Latency(
        len(ordered), median(ordered) * 1e3, p90 * 1e3, ordered[0] * 1e3, average * 1e3, blocks, waited
    )


def waits_s() -> dict[str, float]:
    """Seconds for which each thread of this process has waited for a core, and a hypervisor has kept one on average.

    Those that the system does not tell are left out.
    """
    found: dict[str, float] = {}
    with suppress(OSError):
        for thread in os.scandir("/proc/self/task"):
            with suppress(OSError, ValueError, IndexError):  # it ended meanwhile, or nothing is counted
                waited = Path(thread.path, "schedstat").read_text(encoding="ascii").split()[1]
                found[thread.name] = int(waited) / 1e9
    with suppress(OSError, ValueError, IndexError):
        first = Path("/proc/stat").read_text(encoding="ascii").partition("\n")[0].split()
        found["stolen"] = int(first[8]) / os.sysconf("SC_CLK_TCK") / (os.cpu_count() or 1)
    return found


def busy(waited: float) -> str:
    """What is said of a measurement whose threads waited for this part of the time."""
    return f"Other programs kept this machine busy meanwhile (threads waited {waited:.0%} of the time for a core)"


def ratio(ours: Mapping[str, Any], theirs: Mapping[str, Any], time: str = "median_ms") -> Ratio:
    """The ratio of two sides of one measurement, each as `Latency.to_json` has it, by the field `time`."""
    rounds = [b / a for a, b in zip(ours.get("blocks_ms", ()), theirs.get("blocks_ms", ()), strict=True)]
    middle = theirs[time] / ours[time]
    return Ratio(middle, min([middle, *rounds]), max([middle, *rounds]))


def time_in_blocks(
    sides: Mapping[str, Callable[[], object]],
    *,
    runs: int,
    limit_s: float,
    warmup: int = 3,
    rounds: int = 1,
    clock: Clock = time.perf_counter,
    waits: Waits = waits_s,
) -> dict[str, Latency]:
    """Time each side in blocks of `BLOCK_S` seconds, in turns, until each has `runs` counted runs.

    Args:
        sides: what to call, by name.
        runs: counted runs that each side should reach.
        limit_s: seconds after which no further round of blocks begins; the first always runs.
        warmup: calls of each side before the first block.
        rounds: undisturbed rounds of blocks to make at least, where the limit allows them.
        clock: seconds; a test brings its own.
        waits: seconds that each thread was ready to run and had no core, so far.
    """
    for call in sides.values():
        for _ in range(warmup):
            call()
    made: list[dict[str, _Block]] = []
    begin = clock()
    while True:
        made.append({name: _block(call, clock, waits) for name, call in sides.items()})
        quiet = [one for one in made if not any(block.disturbed for block in one.values())]
        enough = min(sum(len(one[name].times_s) for one in made) for name in sides) >= runs
        if (enough and len(quiet) >= rounds) or clock() - begin > limit_s:
            return {name: _summary([one[name] for one in quiet or made]) for name in sides}


def _summary(blocks: Sequence[_Block]) -> Latency:
    times = [took for block in blocks for took in block.times_s]
    waited = mean(block.waited for block in blocks)
    return summarise(
        times,
        [median(block.times_s) for block in blocks],
        round(waited, 4) if any(block.disturbed for block in blocks) else 0.0,
    )


def _block(call: Callable[[], object], clock: Clock, waits: Waits) -> _Block:
    """One block: its runs that began after it had settled."""
    counted: list[float] = []
    before: Mapping[str, float] = {}
    begin = settled = now = clock()
    while now - begin < BLOCK_S or len(counted) < LEAST:
        if not counted and now - begin >= SETTLE_S:
            before = waits()
            settled = now = clock()
        call()
        end = clock()
        if now - begin >= SETTLE_S:
            counted.append(end - now)
        now = end
    waited = max((total - before.get(name, 0.0) for name, total in waits().items()), default=0.0)
    return _Block(counted, waited / max(now - settled, 1e-9))
