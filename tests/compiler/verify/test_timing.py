"""Blocks: sides take turns of 0.3 s, and what runs while the other side's threads still spin is not counted."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from edgec.compiler.verify.timing import BLOCK_S, SETTLE_S, ratio, summarise, time_in_blocks


class Machine:
    """A clock, and runtimes that move it: a call takes longer while the other runtime's threads spin."""

    def __init__(self, spin_s: float = 0.05) -> None:
        self.now = 0.0
        self.spin_s = spin_s
        self.busy_until: dict[str, float] = {}
        self.order: list[str] = []

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


def test_spinning_threads_of_the_other_side_do_not_count() -> None:
    machine = Machine()
    sides = {"ours": machine.runtime("ours", 0.001), "theirs": machine.runtime("theirs", 0.002)}
    times = time_in_blocks(sides, runs=400, limit_s=10, clock=machine.clock)
    assert (times["ours"].median_ms, times["ours"].mean_ms) == pytest.approx((1.0, 1.0))
    assert (times["theirs"].median_ms, times["theirs"].mean_ms) == pytest.approx((2.0, 2.0))
    assert min(one.runs for one in times.values()) >= 400
    assert machine.order[2:] == ["ours", "theirs"] * (len(machine.order) // 2 - 1)


def test_the_limit_ends_it_after_a_round() -> None:
    machine = Machine()
    sides = {"ours": machine.runtime("ours", 0.001), "theirs": machine.runtime("theirs", 0.001)}
    times = time_in_blocks(sides, runs=10**6, limit_s=0.1, clock=machine.clock)
    assert machine.now < 2 * BLOCK_S + 0.2
    assert all(abs(one.runs - (BLOCK_S - SETTLE_S) * 1000) < 50 for one in times.values())


def test_a_slow_model_gets_two_counted_runs_a_block() -> None:
    machine = Machine(spin_s=0)
    times = time_in_blocks({"ours": machine.runtime("ours", 1.0)}, runs=3, limit_s=100, clock=machine.clock)
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
    times = time_in_blocks(sides, runs=1, limit_s=100, warmup=0, rounds=4, clock=machine.clock)
    assert times["ours"].blocks_ms == pytest.approx((2, 4, 2, 3))
    found = ratio(times["ours"].to_json(), times["theirs"].to_json())
    assert (found.low, found.high) == pytest.approx((1.0, 2.0))
    assert found.low < found.middle <= found.high
    alone = time_in_blocks(
        sides | {"ours": machine.runtime("ours", 0.002)}, runs=1, limit_s=0.1, rounds=4, clock=machine.clock
    )
    assert len(alone["ours"].blocks_ms) == 1


def test_a_summary_is_in_milliseconds() -> None:
    latency = summarise([0.004, 0.001, 0.002, 0.003])
    assert latency.runs == 4
    assert (latency.median_ms, latency.mean_ms) == pytest.approx((2.5, 2.5))
    assert (latency.min_ms, latency.p90_ms) == pytest.approx((1, 4))
    assert summarise([0.003, 0.001, 0.002]).median_ms == pytest.approx(2)
