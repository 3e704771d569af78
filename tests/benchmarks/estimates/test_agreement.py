"""Estimates beside measurements: what a correlation is, and what today's estimates make of stored measurements."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from statistics import mean

import pytest

from edgec.benchmarks.estimates.agreement import FEWEST, agreement, rank_correlation, stored
from edgec.benchmarks.estimates.collect import collect
from edgec.benchmarks.estimates.measure import FIRST, SPREAD, spread
from edgec.compiler.backends.cpu.compute import conv2d, dense, depthwise, pool
from edgec.compiler.backends.cpu.specs import decode
from edgec.compiler.backends.registry import backend_of
from edgec.compiler.tuning.cache import TuningCache, Winner
from edgec.targets import load_target

LEAST_CORRELATION, MOST_LOSS = 0.25, 0.04  # 0.37 and 0.019 when measured


def test_correlation_is_of_ranks() -> None:
    assert rank_correlation([1, 2, 3, 4], [1, 10, 100, 1000]) == pytest.approx(1)
    assert rank_correlation([1, 2, 3, 4], [9, 3, 2, 1]) == pytest.approx(-1)
    assert rank_correlation([1, 2, 3], [5, 5, 5]) == 0
    assert rank_correlation([1, 2, 3, 4], [1, 1, 2, 2]) == pytest.approx(0.8944, abs=1e-4)


def test_losses_are_beside_the_fastest_that_was_timed() -> None:
    found = agreement({
        "good": [(f"s{n}", n, 10.0 + n) for n in range(5)],
        "bad": [("first", 0, 20.0), ("second", 1, 15.0), *((f"s{n}", n, 10.0) for n in range(2, 6))],
        "few": [("only", 0, 1.0)],
    })  # fmt: skip
    assert found is not None
    assert (found.workloads, found.loss, found.loss_of_three) == (2, pytest.approx(0.5), 0)
    assert (found.pairs, found.apart) == (10 + 15, 10 + 9)  # of "bad", six pairs are equal
    assert found.right == pytest.approx(10 / 19)
    assert agreement({}) is None
    assert stored("nothing was measured here") == {}


def test_measurements_come_from_a_tuning_cache(tmp_path: Path) -> None:
    cache = TuningCache(tmp_path, "cpu")
    timed = [(f"s{n}", n, 5.0 - n) for n in range(5)]
    cache.put("conv|relu", Winner("s4", 1.0), "full", timed)
    cache.put("conv|any", Winner("s4", 1.0), "full")
    cache.put("dense|relu", Winner("s0", 1.0), "full", timed[:2])
    assert collect(tmp_path) == {"conv|relu": timed}


def test_a_sample_holds_the_best_guesses_and_reaches_the_last_candidate() -> None:
    assert spread(range(6)) == tuple(range(6))
    sample = spread(range(100))
    assert sample[:2] == (0, 1)
    assert sample[-1] == 99
    assert len(set(sample)) == FIRST + SPREAD
    steps = [b - a for a, b in pairwise(sample[2:])]
    assert max(steps) - min(steps) <= 1


DEFINITIONS = {"depthwise": depthwise, "conv2d": conv2d, "dense": dense, "pool": pool}


def _places_today(key: str) -> dict[str, int]:
    """The order in which today's estimates put the candidates of a stored workload."""
    kind, anchor, operators, _, threads = key.split("|")
    spec, target = decode(anchor), load_target("zen4")
    func = DEFINITIONS[kind.partition(".")[0]](spec)
    count = int(threads.removeprefix("threads"))
    work = backend_of(target).workload_of(func, anchor, tuple(operators.split("+")), count, 1e-3)
    return {} if work is None else {str(candidate): place for place, candidate in enumerate(work.candidates)}


def test_todays_estimates_rank_what_was_measured_on_zen4() -> None:
    measured, correlations, losses = stored("zen4"), [], []
    for key, timed in measured.items():
        places = _places_today(key)
        known = [(places[schedule], us) for schedule, _, us in timed if schedule in places]
        if len(known) >= FEWEST:
            correlations.append(rank_correlation([place for place, _ in known], [us for _, us in known]))
            losses.append(min(known)[1] / min(us for _, us in known) - 1)
    assert len(correlations) >= 0.7 * len(measured), (
        "templates have changed: measure anew (estimates/measure.py)"
    )
    assert mean(correlations) >= LEAST_CORRELATION
    assert mean(losses) <= MOST_LOSS
