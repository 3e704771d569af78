"""Time several runtimes in one process, each for a block of time.

ONNX Runtime's and OpenVINO's worker threads spin for milliseconds after a call. Where the sides alternate call by call
at two threads, each is measured beside the other's spinning threads: the same networks came to 1.12 times ONNX Runtime
that way, and to 1.43 in blocks of 0.3 s a side whose first 60 ms do not count.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

from edgec.compiler.verify.timing import Latency, summarise

BLOCK_S = 0.3
SETTLE_S = 0.06
LEAST = 2  # counted runs of a block, however slow the model is

Clock = Callable[[], float]


def time_in_blocks(
    sides: Mapping[str, Callable[[], object]],
    *,
    runs: int,
    limit_s: float,
    warmup: int = 3,
    clock: Clock = time.perf_counter,
) -> dict[str, Latency]:
    """Time each side in blocks of `BLOCK_S` seconds, in turns, until each has `runs` counted runs.

    Args:
        sides: what to call, by name.
        runs: counted runs that each side should reach.
        limit_s: seconds after which no further round of blocks begins; the first always runs.
        warmup: calls of each side before the first block.
        clock: seconds; a test brings its own.
    """
    for call in sides.values():
        for _ in range(warmup):
            call()
    times: dict[str, list[float]] = {name: [] for name in sides}
    begin = clock()
    while True:
        for name, call in sides.items():
            times[name] += _block(call, clock)
        if min(len(counted) for counted in times.values()) >= runs or clock() - begin > limit_s:
            return {name: summarise(counted) for name, counted in times.items()}


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
