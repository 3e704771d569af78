"""Run as a program: forks children that are killed at each write to a frame ring in turn, and looks at its counters.

A small process forks in a millisecond; that of the tests takes a hundred.
"""

from __future__ import annotations

import itertools
import os
import signal
import sys
from typing import Any

from edgec.device_agent.process.ring import Ring


class Deadly:
    """A ring's words; the process is killed before it writes one of them."""

    def __init__(self, words: memoryview, place: int) -> None:
        self._words, self._left = words, place

    def __getitem__(self, at: Any) -> Any:
        return self._words[at]

    def __setitem__(self, at: int, value: int) -> None:
        self._left -= 1
        if not self._left:
            os.kill(os.getpid(), signal.SIGKILL)
        self._words[at] = value


def write_and_read(mine: Ring, newest: bool) -> None:
    for _ in range(3):
        for _ in range(2):
            slot = mine.begin(newest=newest)
            assert slot is not None
            mine.commit(slot, 4, 5)
        while frame := mine.take(newest=newest):
            mine.release(frame)


def main(newest: bool) -> None:
    for place in itertools.count(1):
        ring = Ring.create(3, 64)
        if not (child := os.fork()):
            mine = Ring(ring.fd)
            mine._words = Deadly(mine._words, place)  # type: ignore[assignment]
            write_and_read(mine, newest)
            os._exit(0)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        ring.recover_writer()
        ring.recover_reader()
        counters = ring.counters()
        assert 0 <= counters.in_flight <= 2
        assert counters.captured == counters.processed + counters.dropped + counters.in_flight
        # One more than without the death: the frame that it took along.
        assert 0 <= counters.dropped <= (counters.captured // 2 + 1 if newest else 1), (place, counters)
        # Nor does the death take a slot along: a few such restarts would leave a camera none to write into.
        while frame := ring.take(newest=False):
            ring.release(frame)
        free = [slot for _ in range(ring.slots) if (slot := ring.begin(newest=False)) is not None]
        assert len(set(free)) == ring.slots, (place, free)
        ring.close()
        if status == 0:
            break
        assert status == -signal.SIGKILL
    assert place > 60, "the child lived to the end too early"


if __name__ == "__main__":
    main(sys.argv[1] == "newest")
