"""Bandwidths: where data come from by how much was touched since."""

from __future__ import annotations

from dataclasses import replace

import pytest

from edgec.targets.measured_rates import Bandwidth, best

HERE = Bandwidth(1 << 20, 32 << 20, l2=80.0, l3=20.0, memory=10.0)


@pytest.mark.parametrize(
    ("reach", "expected"),
    [(1000, ("L2", 80.0)), (1 << 20, ("L2", 80.0)), (8 << 20, ("L3", 20.0)), (20 << 20, ("memory", 10.0))],
)
def test_data_come_from_the_smallest_memory_that_holds_them(reach: int, expected: tuple[str, float]) -> None:
    assert HERE.of(reach) == expected


def test_without_a_third_cache_data_come_from_memory() -> None:
    assert replace(HERE, l3=None).of(8 << 20) == ("memory", 10.0)


def test_the_best_and_the_mean_are_taken_rate_by_rate() -> None:
    other = Bandwidth(1 << 20, 32 << 20, l2=60.0, l3=40.0, memory=12.0)
    assert best([HERE, other]) == Bandwidth(1 << 20, 32 << 20, l2=80.0, l3=40.0, memory=12.0)
    assert HERE.mean(other) == Bandwidth(1 << 20, 32 << 20, l2=70.0, l3=30.0, memory=11.0)
    assert HERE.mean(replace(other, l3=None)).l3 is None
    assert best([replace(HERE, l3=None), replace(other, l3=None)]).l3 is None
