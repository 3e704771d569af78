"""Latency of two implementations, measured in turns so that load affects both alike."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

BLOCK_S = 0.06  # one side's turn; long enough that the other's spinning worker threads have gone to sleep
LEAST = 2  # counted runs of a turn: of a slow model every second one would go to settling
SETTLE_S = 0.01  # the beginning of a turn is not counted, for the same reason


@dataclass(frozen=True)
class Latency:
    """Times of single runs in milliseconds."""

    runs: int
    median_ms: float
    p90_ms: float
    min_ms: float
    mean_ms: float

    def to_json(self) -> dict[str, Any]:
        """The fields as JSON-serialisable values."""
        return asdict(self)


def summarise(times_s: Sequence[float]) -> Latency:
    """Median, 90th percentile, minimum and mean of run times in seconds."""
    ordered = sorted(times_s)
    middle = len(ordered) // 2
    median = ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2
    p90 = ordered[min(len(ordered) - 1, int(0.9 * len(ordered)))]
    mean = sum(ordered) / len(ordered)
    return Latency(len(ordered), median * 1e3, p90 * 1e3, ordered[0] * 1e3, mean * 1e3)


def interleave(
    sides: Mapping[str, Callable[[], object]], *, runs: int, limit_s: float, warmup: int = 3
) -> dict[str, Latency]:
    """Time each side's call at least `runs` times, in turns, for about `limit_s` seconds at most.

    Args:
        sides: what to call, by name.
        runs: how many counted runs each side should reach.
        limit_s: seconds after which no further round begins; every side gets at least two counted runs.
        warmup: calls of each side before anything is counted.
    """
    for call in sides.values():
        for _ in range(warmup):
            call()
    times: dict[str, list[float]] = {name: [] for name in sides}
    begin = time.perf_counter()
    while min(len(t) for t in times.values()) < runs:
        for name, call in sides.items():
            times[name] += _turn(call, runs - len(times[name]))
        enough = min(len(t) for t in times.values()) >= 2
        if enough and time.perf_counter() - begin > limit_s:
            break
    return {name: summarise(t) for name, t in times.items()}


def _turn(call: Callable[[], object], wanted: int) -> list[float]:
    begin = time.perf_counter()
    while True:
        call()
        if time.perf_counter() - begin > SETTLE_S:
            break
    counted: list[float] = []
    begin = time.perf_counter()
    while len(counted) < max(wanted, 1):
        start = time.perf_counter()
        call()
        end = time.perf_counter()
        counted.append(end - start)
        if end - begin > BLOCK_S and len(counted) >= LEAST:
            break
    return counted
