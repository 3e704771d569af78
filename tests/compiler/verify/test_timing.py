"""Blocks: sides take turns of 0.3 s, and what runs while the other side's threads still spin is not counted."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest

from edgec.compiler.verify.timing import BLOCK_S, SETTLE_S, Latency, ratio, summarise, time_in_blocks, waits_s


class Machine:
    """A clock, and runtimes that move it: a call takes longer while the other runtime's threads spin."""

    def __init__(self, spin_s: float = 0.05) -> None:
        self.now = 0.0
        self.spin_s = spin_s
        self.busy_until: dict[str, float] = {}
        self.order: list[str] = []
        self.others_until_s = 0.0

    def runtime(self, name: str, took: float) -> Callable[[], None]:
        def call() -> None:
            disturbed = any(until > self.now for other, until in self.busy_until.items() if other != name)
            self.now += took * (3 if disturbed else 1)
            self.busy_until[name] = self.now + self.spin_s
            if self.order[-1:] != [name]:
                self.order.append(name)

        return call

    def clock(self) -> float:
        return self.now

    def waits(self) -> dict[str, float]:
        """A thread waits for a core while other programs run: half of each second of the first two."""
        return {"1": 0.5 * min(self.now, self.others_until_s), "2": 0.0}


def test_spinning_threads_of_the_other_side_do_not_count() -> None:
    machine = Machine()
    sides = {"ours": machine.runtime("ours", 0.001), "theirs": machine.runtime("theirs", 0.002)}
    times = time_in_blocks(sides, runs=400, limit_s=10, clock=machine.clock, waits=machine.waits)
    assert (times["ours"].median_ms, times["ours"].mean_ms) == pytest.approx((1.0, 1.0))
    assert (times["theirs"].median_ms, times["theirs"].mean_ms) == pytest.approx((2.0, 2.0))
    assert min(one.runs for one in times.values()) >= 400
    assert machine.order[2:] == ["ours", "theirs"] * (len(machine.order) // 2 - 1)


def test_the_limit_ends_it_after_a_round() -> None:
    machine = Machine()
    sides = {"ours": machine.runtime("ours", 0.001), "theirs": machine.runtime("theirs", 0.001)}
    times = time_in_blocks(sides, runs=10**6, limit_s=0.1, clock=machine.clock, waits=machine.waits)
    assert machine.now < 2 * BLOCK_S + 0.2
    assert all(abs(one.runs - (BLOCK_S - SETTLE_S) * 1000) < 50 for one in times.values())


def test_a_slow_model_gets_two_counted_runs_a_block() -> None:
    machine = Machine(spin_s=0)
    times = time_in_blocks(
        {"ours": machine.runtime("ours", 1.0)}, runs=3, limit_s=100, clock=machine.clock, waits=machine.waits
    )
    assert times["ours"].runs == 4
    assert times["ours"].median_ms == pytest.approx(1000.0)


def test_rounds_are_made_as_far_as_the_limit_allows_and_give_the_spread() -> None:
    machine = Machine()
    took = iter([0.002, 0.004, 0.002, 0.003])

    def ours() -> None:
        if machine.order[-1:] != ["ours"]:
            machine.order.append("ours")
            ours.took = next(took)  # type: ignore[attr-defined]
        machine.now += ours.took  # type: ignore[attr-defined]

    sides = {"ours": ours, "theirs": machine.runtime("theirs", 0.004)}
    times = time_in_blocks(
        sides, runs=1, limit_s=100, warmup=0, rounds=4, clock=machine.clock, waits=machine.waits
    )
    assert times["ours"].blocks_ms == pytest.approx((2, 4, 2, 3))
    found = ratio(times["ours"].to_json(), times["theirs"].to_json())
    assert (found.low, found.high) == pytest.approx((1.0, 2.0))
    assert found.low < found.middle <= found.high
    alone = time_in_blocks(
        sides | {"ours": machine.runtime("ours", 0.002)},
        runs=1,
        limit_s=0.1,
        rounds=4,
        clock=machine.clock,
        waits=machine.waits,
    )
    assert len(alone["ours"].blocks_ms) == 1


def test_rounds_that_other_programs_disturb_do_not_count_if_there_are_others() -> None:
    def measured(until_s: float, limit_s: float) -> tuple[Machine, dict[str, Latency]]:
        machine = Machine(spin_s=0)
        machine.others_until_s = until_s

        def ours() -> None:
            machine.now += 0.004 if machine.now < until_s else 0.001

        sides = {"ours": ours, "theirs": machine.runtime("theirs", 0.002)}
        how: dict[str, Any] = {"clock": machine.clock, "waits": machine.waits}
        return machine, time_in_blocks(sides, runs=1, limit_s=limit_s, warmup=0, rounds=2, **how)

    machine, times = measured(0.7, 10)  # in the second round, too
    assert machine.now == pytest.approx(4 * 2 * BLOCK_S, abs=0.1)
    assert (times["ours"].median_ms, len(times["ours"].blocks_ms)) == (pytest.approx(1.0), 2)
    assert times["ours"].waited == times["theirs"].waited == 0
    machine, times = measured(100, 1.0)  # as long as there is time
    assert machine.now == pytest.approx(2 * 2 * BLOCK_S, abs=0.1)
    assert (times["ours"].median_ms, len(times["ours"].blocks_ms)) == (pytest.approx(4.0), 2)
    assert times["ours"].waited == pytest.approx(0.5, abs=0.01)


def test_the_system_tells_how_long_threads_waited() -> None:
    before = waits_s()
    assert "stolen" in before
    assert str(threading.get_native_id()) in before
    assert all(total >= 0 for total in before.values())


def test_a_summary_is_in_milliseconds() -> None:
    latency = summarise([0.004, 0.001, 0.002, 0.003])
    assert latency.runs == 4
    assert (latency.median_ms, latency.mean_ms) == pytest.approx((2.5, 2.5))
    assert (latency.min_ms, latency.p90_ms) == pytest.approx((1, 4))
    assert summarise([0.003, 0.001, 0.002]).median_ms == pytest.approx(2)
