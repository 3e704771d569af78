"""Which candidate is chosen, from trials that cost what the test says."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgec.compiler.options import CompileOptions
from edgec.compiler.tuning.tuner import HOPELESS, ROUNDS, TRIALS, Tuner
from tests.compiler.tuning.fakes import FakeBackend, Notes, work_of


def tuner_of(backend: FakeBackend, folder: Path, tune: str = "fast", notes: Notes | None = None) -> Tuner:
    return Tuner(backend, CompileOptions(tune=tune, cache_dir=folder), notes or Notes())


def test_the_fastest_candidate_wins_and_is_remembered(tmp_path: Path) -> None:
    backend = FakeBackend({"a": [3e-3], "b": [1e-3], "c": [2e-3]})
    tuner = tuner_of(backend, tmp_path)
    assert tuner.choose(work_of("a", "b", "c")) == "b"
    again = tuner_of(FakeBackend({}), tmp_path)
    assert again.choose(work_of("a", "b", "c")) == "b"
    assert (tuner.summary().timed, tuner.summary().cache_hits) == (3, 0)
    assert (again.summary().timed, again.summary().cache_hits) == (0, 1)


def test_a_winner_serves_another_epilogue_of_its_family(tmp_path: Path) -> None:
    tuner_of(FakeBackend({"a": [2.0], "b": [1.0]}), tmp_path).choose(work_of("a", "b"))
    assert tuner_of(FakeBackend({}), tmp_path).choose(work_of("a", "b", epilogue="add")) == "b"


def test_a_candidate_that_was_disturbed_once_gets_further_rounds(tmp_path: Path) -> None:
    backend = FakeBackend({"a": [1.05e-3], "b": [2e-3, 2e-3, 1e-3]})
    assert tuner_of(backend, tmp_path).choose(work_of("a", "b")) == "b"


def test_hopeless_candidates_are_timed_once(tmp_path: Path) -> None:
    backend = FakeBackend({"a": [1e-3], "b": [1e-3 * HOPELESS * 1.01], "c": [1e-3 * HOPELESS * 0.99]})
    tuner_of(backend, tmp_path).choose(work_of("a", "b", "c"))
    assert {trial.name: trial.measured for trial in backend.built} == {"a": ROUNDS, "b": 1, "c": ROUNDS}


def test_close_candidates_are_timed_again(tmp_path: Path) -> None:
    backend = FakeBackend({"a": [1e-3], "b": [1.05e-3], "c": [1.5e-3]})
    tuner_of(backend, tmp_path).choose(work_of("a", "b", "c"))
    assert {trial.name: trial.measured for trial in backend.built} == {
        "a": ROUNDS + 2,
        "b": ROUNDS + 2,
        "c": ROUNDS,
    }


def test_one_that_fails_and_one_that_computes_otherwise_are_named_and_dropped(tmp_path: Path) -> None:
    backend = FakeBackend({"a": [3.0], "wrong": [1.0], "c": [2.0]}, outputs={"wrong": 7.0})
    notes = Notes()
    tuner = tuner_of(backend, tmp_path, notes=notes)
    assert tuner.choose(work_of("broken", "a", "wrong", "c")) == "c"
    assert tuner.summary().dropped == 2
    assert any("broken does not build: no such register" in line for line in notes.lines)
    assert any("wrong computes something else" in line for line in notes.lines)


def test_where_none_builds_that_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match=r"no candidate of conv\|relu builds"):
        tuner_of(FakeBackend({}), tmp_path).choose(work_of("a", "b"))


@pytest.mark.parametrize(("tune", "can_time"), [("none", True), ("fast", False)])
def test_without_timing_the_first_guess_is_taken(tmp_path: Path, tune: str, can_time: bool) -> None:
    backend = FakeBackend({"a": [2.0], "b": [1.0]}, can_time=can_time)
    assert tuner_of(backend, tmp_path, tune).choose(work_of("a", "b")) == "a"
    assert not backend.built


def test_an_only_candidate_is_no_workload(tmp_path: Path) -> None:
    tuner = tuner_of(FakeBackend({}), tmp_path)
    assert tuner.choose(work_of("a")) == "a"
    assert tuner.summary().workloads == 0


def test_efforts_try_as_many_as_they_say_and_full_trusts_no_fast_winner(tmp_path: Path) -> None:
    names = [f"c{i}" for i in range(TRIALS["full"] + 5)]
    times = {name: [1e-3 * (len(names) - i)] for i, name in enumerate(names)}
    quick, thorough = FakeBackend(times), FakeBackend(times)
    assert tuner_of(quick, tmp_path).choose(work_of(*names)) == names[TRIALS["fast"] - 1]
    assert tuner_of(thorough, tmp_path, "full").choose(work_of(*names)) == names[TRIALS["full"] - 1]
    assert (len(quick.built), len(thorough.built)) == (TRIALS["fast"], TRIALS["full"])
    assert tuner_of(FakeBackend({}), tmp_path).choose(work_of(*names)) == names[TRIALS["full"] - 1]
