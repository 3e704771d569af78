"""The frame ring: counters that always add up, and frames that cross as they are."""

from __future__ import annotations

import itertools
import os
import signal
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgec.device_agent.process.ring import Frame, Ring


@settings(max_examples=150, deadline=None)
@given(st.integers(3, 6), st.booleans(), st.lists(st.sampled_from("wcatrxy"), max_size=60))
def test_the_ring_s_counters_add_up_whatever_happens(slots: int, newest: bool, steps: list[str]) -> None:
    ring = Ring.create(slots, 64)
    writing: list[int] = []
    reading: list[Frame] = []
    seen: list[int] = []
    for step in steps:
        if step == "w" and not writing and (slot := ring.begin(newest=newest)) is not None:
            writing.append(slot)
        elif step == "c" and writing:
            ring.commit(writing.pop(), 4, 5)
        elif step == "a" and writing:
            ring.abandon(writing.pop())
        elif step == "t" and not reading and (frame := ring.take(newest=newest)):
            reading.append(frame)
            seen.append(frame.number)
        elif step == "r" and reading:
            ring.release(reading.pop())
        elif step == "x":
            ring.recover_writer()
            writing.clear()
        elif step == "y":
            ring.recover_reader()
            reading.clear()
        counters = ring.counters()
        assert counters.captured == counters.processed + counters.dropped + counters.in_flight
        assert counters.dropped >= 0
    assert seen == sorted(set(seen))
    if not newest and "y" not in steps:
        assert seen == list(range(len(seen)))
        assert ring.counters().dropped == 0
    ring.close()


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


@pytest.mark.parametrize("newest", [True, False])
def test_the_ring_s_counters_add_up_after_a_death_at_any_write(newest: bool) -> None:
    for place in itertools.count(1):
        ring = Ring.create(3, 64)
        if not (child := os.fork()):
            mine = Ring(ring.fd)
            mine._words = Deadly(mine._words, place)  # type: ignore[assignment]
            for _ in range(3):
                for _ in range(2):
                    slot = mine.begin(newest=newest)
                    assert slot is not None
                    mine.commit(slot, 4, 5)
                while frame := mine.take(newest=newest):
                    mine.release(frame)
            os._exit(0)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        ring.recover_writer()
        ring.recover_reader()
        counters = ring.counters()
        assert 0 <= counters.in_flight <= 2
        assert counters.captured == counters.processed + counters.dropped + counters.in_flight
        # One more than without the death: the frame that it took along.
        assert 0 <= counters.dropped <= (counters.captured // 2 + 1 if newest else 1), (place, counters)
        ring.close()
        if status == 0:
            break
        assert status == -signal.SIGKILL
    assert place > 60, "the child lived to the end too early"


def test_a_frame_crosses_as_it_is() -> None:
    ring = Ring.create(3, 1000)
    other = Ring(os.dup(ring.fd))
    picture = np.arange(4 * 5 * 3, dtype=np.uint8).reshape(4, 5, 3)
    slot = ring.begin(newest=True)
    assert slot is not None
    ring.picture(slot, 4, 5)[:] = picture
    ring.commit(slot, 4, 5)
    frame = other.take(newest=True)
    assert frame is not None
    assert np.array_equal(frame.data, picture)
    with pytest.raises(ValueError, match="does not fit"):
        ring.memory(0, 2000)
