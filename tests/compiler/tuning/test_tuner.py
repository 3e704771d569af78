"""Which candidate is chosen, from trials that cost what the test says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from edgec.compiler.backends.interface import Workload
from edgec.compiler.options import CompileOptions
from edgec.compiler.tuning.tuner import FAST_S, HOPELESS, ROUNDS, TRIALS, Tuner
from tests.compiler.tuning.fakes import FakeBackend, Notes, work_of


def tuner_of(
    backend: FakeBackend, folder: Path, tune: str = "fast", notes: Notes | None = None, **options: Any
) -> Tuner:
    return Tuner(
        backend, CompileOptions(tune=tune, cache_dir=folder, **options), notes or Notes(), clock=backend.clock
    )


def chosen(tuner: Tuner, work: Workload, count: int = 1) -> str:
    tuner.tune([(work, count)])
    return str(tuner.choose(work))


def test_the_fastest_candidate_wins_and_is_remembered(tmp_path: Path) -> None:
    backend = FakeBackend({"a": [3e-3], "b": [1e-3], "c": [2e-3]})
    tuner = tuner_of(backend, tmp_path)
    assert chosen(tuner, work_of("a", "b", "c")) == "b"
    again = tuner_of(FakeBackend({}), tmp_path)
    assert chosen(again, work_of("a", "b", "c")) == "b"
    assert (tuner.summary().timed, tuner.summary().cache_hits) == (3, 0)
    assert (again.summary().timed, again.summary().cache_hits) == (0, 1)


def test_a_winner_serves_another_epilogue_of_its_family(tmp_path: Path) -> None:
    chosen(tuner_of(FakeBackend({"a": [2.0], "b": [1.0]}), tmp_path), work_of("a", "b"))
    assert chosen(tuner_of(FakeBackend({}), tmp_path), work_of("a", "b", epilogue="add")) == "b"


def test_a_candidate_that_was_disturbed_once_gets_further_rounds(tmp_path: Path) -> None:
    backend = FakeBackend({"a": [1.05e-3], "b": [2e-3, 2e-3, 1e-3]})
    assert chosen(tuner_of(backend, tmp_path), work_of("a", "b")) == "b"


def test_hopeless_candidates_are_timed_once(tmp_path: Path) -> None:
    backend = FakeBackend({"a": [1e-3], "b": [1e-3 * HOPELESS * 1.01], "c": [1e-3 * HOPELESS * 0.99]})
    chosen(tuner_of(backend, tmp_path), work_of("a", "b", "c"))
    assert {trial.name: trial.measured for trial in backend.built} == {"a": ROUNDS, "b": 1, "c": ROUNDS}


def test_close_candidates_are_timed_again(tmp_path: Path) -> None:
    backend = FakeBackend({"a": [1e-3], "b": [1.05e-3], "c": [1.5e-3]})
    chosen(tuner_of(backend, tmp_path), work_of("a", "b", "c"))
    assert {trial.name: trial.measured for trial in backend.built} == {
        "a": ROUNDS + 2,
        "b": ROUNDS + 2,
        "c": ROUNDS,
    }


def test_one_that_fails_and_one_that_computes_otherwise_are_named_and_dropped(tmp_path: Path) -> None:
    backend = FakeBackend({"a": [3.0], "wrong": [1.0], "c": [2.0]}, outputs={"wrong": 7.0})
    notes = Notes()
    tuner = tuner_of(backend, tmp_path, notes=notes)
    assert chosen(tuner, work_of("broken", "a", "wrong", "c")) == "c"
    assert tuner.summary().dropped == 2
    assert any("broken does not build: no such register" in line for line in notes.lines)
    assert any("wrong computes something else" in line for line in notes.lines)


def test_where_none_builds_that_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match=r"no candidate of conv\|relu builds"):
        chosen(tuner_of(FakeBackend({}), tmp_path), work_of("a", "b"))


@pytest.mark.parametrize(("tune", "can_time"), [("none", True), ("fast", False)])
def test_without_timing_the_first_guess_is_taken(tmp_path: Path, tune: str, can_time: bool) -> None:
    backend = FakeBackend({"a": [2.0], "b": [1.0]}, can_time=can_time)
    assert chosen(tuner_of(backend, tmp_path, tune), work_of("a", "b")) == "a"
    assert not backend.built


def test_an_only_candidate_is_no_workload(tmp_path: Path) -> None:
    tuner = tuner_of(FakeBackend({}), tmp_path)
    assert chosen(tuner, work_of("a")) == "a"
    assert tuner.summary().workloads == 0


def test_efforts_try_as_many_as_they_say_and_full_trusts_no_fast_winner(tmp_path: Path) -> None:
    names = [f"c{i}" for i in range(TRIALS["full"] + 5)]
    times = {name: [1e-3 * (len(names) - i)] for i, name in enumerate(names)}
    quick, thorough = FakeBackend(times), FakeBackend(times)
    assert chosen(tuner_of(quick, tmp_path), work_of(*names)) == names[TRIALS["fast"] - 1]
    assert chosen(tuner_of(thorough, tmp_path, "full"), work_of(*names)) == names[TRIALS["full"] - 1]
    assert (len(quick.built), len(thorough.built)) == (TRIALS["fast"], TRIALS["full"])
    assert chosen(tuner_of(FakeBackend({}), tmp_path), work_of(*names)) == names[TRIALS["full"] - 1]


def names(work: str, count: int) -> list[str]:
    return [f"{work}{number}" for number in range(count)]


def test_time_goes_where_most_can_be_gained_and_ends_in_time(tmp_path: Path) -> None:
    layers = {"small": (1e-3, 1), "large": (5e-3, 1), "frequent": (2e-3, 9)}  # seconds, layers that share it
    times = {name: [took] for work, (took, _) in layers.items() for name in names(work, 5)}
    backend, notes = FakeBackend(times, build_s=FAST_S / 7.5), Notes()
    tuner = tuner_of(backend, tmp_path, notes=notes)
    works = [
        (work_of(*names(work, 5), name=work, flops=int(took * 0.25e12)), count)
        for work, (took, count) in layers.items()
    ]
    tuner.tune(works)
    order = [trial.name[:-1] for trial in backend.built]
    assert order == ["frequent"] * 5 + ["large"] * 3, "twice its size, shared by nine"
    assert tuner.summary().left == 1
    assert backend.clock.now < FAST_S * 1.2
    assert any("over before 1 of 3 kinds of layers" in line for line in notes.lines)
    assert tuner.choose(works[0][0]) == "small0", "the best guess where there was no time"


def test_what_was_found_slow_beyond_the_limit_is_tried_further_first(tmp_path: Path) -> None:
    """Both cost the same; one is at the machine's limit, so the other is what can be improved."""
    times = {name: [1e-3] for work in "ab" for name in names(work, 8)}
    backend = FakeBackend(times)
    tuner = Tuner(
        backend,
        CompileOptions(tune="full", cache_dir=tmp_path),
        Notes(),
        floor=lambda work: 0.99e-3 if work.key.startswith("a") else 0.1e-3,
    )
    tuner.tune([(work_of(*names(work, 8), name=work), 1) for work in "ab"])
    assert [trial.name[0] for trial in backend.built] == ["a"] * 3 + ["b"] * 8 + ["a"] * 5


def test_full_has_the_minutes_that_it_is_given_and_tells_what_was_gained(tmp_path: Path) -> None:
    candidates = names("c", 30)
    times = {name: [1e-3 * (30 - number)] for number, name in enumerate(candidates)}
    backend, notes = FakeBackend(times, build_s=10.0), Notes()
    tuner = tuner_of(backend, tmp_path, "full", notes, minutes=1.0)
    assert chosen(tuner, work_of(*candidates)) == "c7"
    assert len(backend.built) == 8, "a batch of three ends at 30 s, one of five at 80 s"
    assert notes.details[0] == "7% of 30 ms gained, 60 s left"
    assert tuner.summary().gained_ms == pytest.approx(7.0)


def test_a_further_compile_goes_on_with_what_was_left(tmp_path: Path) -> None:
    times = {name: [1e-3] for work in "ab" for name in names(work, 3)}
    works = [(work_of(*names(work, 3), name=work, flops=2 if work == "a" else 1), 1) for work in "ab"]
    for expected in (["a"] * 3, ["b"] * 3, []):
        backend = FakeBackend(times, build_s=FAST_S)
        tuner_of(backend, tmp_path).tune(works)
        assert [trial.name[0] for trial in backend.built] == expected


def test_where_two_disagree_further_candidates_decide_before_one_is_chosen(tmp_path: Path) -> None:
    backend = FakeBackend({"wrong": [1.0], "b": [3.0], "c": [2.0], "d": [4.0]}, outputs={"wrong": 7.0})
    tuner = tuner_of(backend, tmp_path)
    assert chosen(tuner, work_of("broken", "wrong", "b", "c", "d")) == "c"
    assert tuner.summary().dropped == 2


def test_a_winner_that_a_later_batch_outvotes_is_dropped(tmp_path: Path) -> None:
    """Three agree, and twice as many that come later do not."""
    late = [f"c{number}" for number in range(7)]
    times = {name: [1.0] for name in ("x", "y", "z")} | {name: [2.0 + n] for n, name in enumerate(late)}
    backend = FakeBackend(times, outputs=dict.fromkeys("xyz", 7.0))
    tuner = tuner_of(backend, tmp_path, "full")
    assert chosen(tuner, work_of("x", "y", "z", *late)) == "c0"
