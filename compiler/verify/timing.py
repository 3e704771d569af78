"""Latency of several runtimes in one process, each timed in blocks of its own.

ONNX Runtime's and OpenVINO's worker threads spin for milliseconds after a call. Where the sides alternate call by call
at two threads, each is measured beside the other's spinning threads: the same networks came to 1.12 times ONNX Runtime
that way, and to 1.43 in blocks of 0.3 s a side whose first 60 ms do not count.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

BLOCK_S = 0.3  # one side's turn
SETTLE_S = 0.06  # its beginning, which does not count: until then the other side's threads may spin
LEAST = 2  # counted runs of a block, however slow the model is

Clock = Callable[[], float]


@dataclass(frozen=True)
class Latency:
    """Times of single runs in milliseconds; `blocks_ms` are the medians of the blocks, in order."""

    runs: int
    median_ms: float
    p90_ms: float
    min_ms: float
    mean_ms: float
    blocks_ms: tuple[float, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """The fields as JSON-serialisable values."""
        return asdict(self)


@dataclass(frozen=True)
class Ratio:
    """How many times as fast one side is as another: of the medians, and the lowest and highest of any round."""

    middle: float
    low: float
    high: float


def summarise(times_s: Sequence[float], blocks_s: Sequence[float] = ()) -> Latency:
    """Median, 90th percentile, minimum and mean of run times in seconds."""
    ordered = sorted(times_s)
    p90 = ordered[min(len(ordered) - 1, int(0.9 * len(ordered)))]
    mean, blocks = sum(ordered) / len(ordered), tuple(block * 1e3 for block in blocks_s)
    return Latency(len(ordered), median(ordered) * 1e3, p90 * 1e3, ordered[0] * 1e3, mean * 1e3, blocks)


def ratio(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> Ratio:
    """The ratio of two sides of one measurement, each as `Latency.to_json` has it."""
    rounds = [b / a for a, b in zip(ours.get("blocks_ms", ()), theirs.get("blocks_ms", ()), strict=True)]
    middle = theirs["median_ms"] / ours["median_ms"]
    return Ratio(middle, min([middle, *rounds]), max([middle, *rounds]))


def time_in_blocks(
    sides: Mapping[str, Callable[[], object]],
    *,
    runs: int,
    limit_s: float,
    warmup: int = 3,
    rounds: int = 1,
    clock: Clock = time.perf_counter,
) -> dict[str, Latency]:
    """Time each side in blocks of `BLOCK_S` seconds, in turns, until each has `runs` counted runs.

    Args:
        sides: what to call, by name.
        runs: counted runs that each side should reach.
        limit_s: seconds after which no further round of blocks begins; the first always runs.
        warmup: calls of each side before the first block.
        rounds: rounds of blocks to make at least, where the limit allows them.
        clock: seconds; a test brings its own.
    """
    for call in sides.values():
        for _ in range(warmup):
            call()
    times: dict[str, list[float]] = {name: [] for name in sides}
    blocks: dict[str, list[float]] = {name: [] for name in sides}
    begin = clock()
    while True:
        for name, call in sides.items():
            counted = _block(call, clock)
            times[name] += counted
            blocks[name].append(median(counted))
        done = min(map(len, times.values())) >= runs and min(map(len, blocks.values())) >= rounds
        if done or clock() - begin > limit_s:
            return {name: summarise(counted, blocks[name]) for name, counted in times.items()}


def _block(call: Callable[[], object], clock: Clock) -> list[float]:
    """Seconds of each run of one block that began after the block had settled."""
    counted: list[float] = []
    begin = now = clock()
    while now - begin < BLOCK_S or len(counted) < LEAST:
        call()
        end = clock()
        if now - begin >= SETTLE_S:
            counted.append(end - now)
        now = end
    return counted
