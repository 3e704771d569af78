"""Latencies of two sides, by a clock of the test's own: nothing here waits or depends on the machine."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from edgec.compiler.verify import timing
from edgec.compiler.verify.timing import BLOCK_S, SETTLE_S, interleave, summarise


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def perf_counter(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(timing, "time", clock)
    return clock


def side(clock: Clock, name: str, seconds: float, calls: list[str]) -> Callable[[], None]:
    def call() -> None:
        calls.append(name)
        clock.now += seconds

    return call


def test_a_summary_is_in_milliseconds() -> None:
    latency = summarise([0.004, 0.001, 0.002, 0.003])
    assert latency.runs == 4
    assert latency.median_ms == pytest.approx(2.5)
    assert (latency.min_ms, latency.p90_ms) == (pytest.approx(1), pytest.approx(4))
    assert latency.mean_ms == pytest.approx(2.5)
    assert summarise([0.003, 0.001, 0.002]).median_ms == pytest.approx(2)


def test_sides_take_turns_in_blocks(clock: Clock) -> None:
    calls: list[str] = []
    sides = {name: side(clock, name, 0.004, calls) for name in "ab"}
    found = interleave(sides, runs=40, limit_s=100, warmup=1)
    assert {name: latency.median_ms for name, latency in found.items()} == {
        "a": pytest.approx(4),
        "b": pytest.approx(4),
    }
    assert all(latency.runs >= 40 for latency in found.values())
    turns = "".join(calls[2:]).replace("ab", "a b").replace("ba", "b a").split()
    assert len(turns) >= 4
    longest = (BLOCK_S + SETTLE_S) / 0.004 + 3
    assert all(len(turn) <= longest for turn in turns)


def test_what_settles_is_not_counted(clock: Clock) -> None:
    """The first calls of a turn are slow, as beside a neighbour's spinning threads."""
    last = [""]

    def call(name: str) -> Callable[[], None]:
        def run() -> None:
            clock.now += 0.012 if last[0] != name else 0.001
            last[0] = name

        return run

    found = interleave({"a": call("a"), "b": call("b")}, runs=20, limit_s=100)
    assert found["a"].p90_ms == found["b"].p90_ms == pytest.approx(1)


def test_a_slow_side_ends_at_the_limit_with_two_runs(clock: Clock) -> None:
    sides = {"slow": side(clock, "slow", 30.0, []), "quick": side(clock, "quick", 0.001, [])}
    found = interleave(sides, runs=1000, limit_s=1.0, warmup=0)
    assert 2 <= found["slow"].runs <= 4
    assert found["quick"].runs >= 2
