"""The frame ring: counters that always add up, and frames that cross as they are."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgec.device_agent.process.ring import Frame, Ring

ROOT = Path(__file__).parents[3]


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


@pytest.mark.parametrize("order", ["newest", "all"])
def test_the_ring_s_counters_add_up_after_a_death_at_any_write(order: str) -> None:
    command = [sys.executable, "-m", "tests.device_agent.process.ring_deaths", order]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr


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
