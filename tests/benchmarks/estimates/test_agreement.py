"""Estimates beside measurements: what a correlation is, and what today's estimates make of stored measurements."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgec.benchmarks.estimates.agreement import agreement, rank_correlation, stored
from edgec.benchmarks.estimates.collect import collect
from edgec.compiler.tuning.cache import TuningCache, Winner


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
    assert agreement({}) is None
    assert stored("nothing was measured here") == {}


def test_measurements_come_from_a_tuning_cache(tmp_path: Path) -> None:
    cache = TuningCache(tmp_path, "cpu")
    timed = [(f"s{n}", n, 5.0 - n) for n in range(5)]
    cache.put("conv|relu", Winner("s4", 1.0), "full", timed)
    cache.put("conv|any", Winner("s4", 1.0), "full")
    cache.put("dense|relu", Winner("s0", 1.0), "full", timed[:2])
    assert collect(tmp_path) == {"conv|relu": timed}
