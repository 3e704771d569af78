"""The machine's state decides which measurement counts, and nothing that was measured does."""

from __future__ import annotations

from itertools import chain, repeat

import pytest

from edgec.benchmarks.networks import state
from edgec.benchmarks.networks.state import TRIES, MachineState, Watch, states
from edgec.compiler.backends.registry import backend_of
from edgec.targets import detect


class Machine:
    """Its rate changes with each measurement."""

    def __init__(self, *rates: float) -> None:
        self._rates = chain(rates, repeat(rates[-1]))
        self.rate, self.made = next(self._rates), 0

    def measure(self) -> int:
        self.made, self.rate = self.made + 1, next(self._rates)
        return self.made


def watched(machine: Machine, fastest: float = 0.0) -> MachineState:
    return MachineState([Watch(lambda: machine.rate, 0.9, fastest), Watch(lambda: 1.0, 0.9)])


@pytest.fixture(autouse=True)
def short_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(state, "_LOOK_S", 0.0)


def test_a_quiet_machine_measures_once() -> None:
    machine = Machine(100.0)
    judged = watched(machine, 100.0).judged(machine.measure)
    assert (judged.made, judged.share) == (1, 1.0)


def test_what_was_measured_on_a_slow_machine_is_measured_again() -> None:
    machine = Machine(100.0, 60.0, 100.0, 100.0)  # slow after the first, and so before the second
    judged = watched(machine, 100.0).judged(machine.measure)
    assert (judged.made, judged.share) == (3, 1.0)


def test_the_quietest_counts_where_none_is_quiet() -> None:
    machine = Machine(60.0, 60.0, 80.0, 80.0, 60.0)
    judged = watched(machine, 100.0).judged(machine.measure)
    assert machine.made == TRIES
    assert judged.made == 3
    assert judged.share == pytest.approx(0.8 / 0.9)


def test_a_faster_machine_than_ever_is_the_measure_from_then_on() -> None:
    machine = Machine(100.0, 200.0)
    state = watched(machine)
    assert state.share() == 1.0
    machine.measure()
    assert state.share() == 1.0
    machine.rate = 100.0
    assert state.share() == pytest.approx(0.5 / 0.9)


def test_this_machine_has_a_rate_for_each_number_of_threads() -> None:
    found = states(backend_of(detect()), [1, 2])
    assert all(0 < state.share() <= 1 for state in found.values())
