"""Shares of peak tell about the kernel: a neighbour that comes and goes does not change them."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import replace
from statistics import median

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgec.benchmarks.roofline.profile import Profile, by_kind
from edgec.benchmarks.roofline.shares import (
    ENOUGH,
    WATCHED_S,
    counting_runs,
    footprint,
    in_gflops,
    layer_share,
    peak_spread,
    seen_reach,
)
from edgec.runtime.execution.profiling import LayerRuns, join, summarise
from edgec.targets.measured_rates import Bandwidth

HERE = Bandwidth(1 << 20, 32 << 20, l2=80.0, l3=20.0, memory=10.0)
PEAK = 150.0
FLOPS = 150_000_000  # 1 ms at the peak


def layer(times: Sequence[float], probes: Sequence[tuple[float, float]], **fields: object) -> LayerRuns:
    made = LayerRuns(
        "k", ("n",), "conv2d", FLOPS, "direct 14x2", 100_000, 50_000, tuple(times), tuple(probes)
    )
    return replace(made, **fields)  # type: ignore[arg-type]


def share_of(one: LayerRuns, highest: float = PEAK, here: Bandwidth = HERE) -> float:
    found = layer_share(one, [here] * len(one.seconds), one.bytes, highest).peak_share
    assert found is not None
    return found


def test_a_share_is_that_of_moments_without_neighbours() -> None:
    # The kernel makes 80 % of the peak. A neighbour takes a fifth of the peak, and two thirds of the kernel's speed.
    free, busy = (1 / 800, (PEAK, PEAK)), (3 / 800, (120.0, 120.0))
    for runs in ([free] * 20, [busy] * 14 + [free] * 6, [free, busy, busy] * 7):
        one = layer([seconds for seconds, _ in runs], [pair for _, pair in runs])
        found = layer_share(one, [HERE] * len(runs), one.bytes, PEAK)
        assert found.peak_share == pytest.approx(0.8)
        assert found.gflops == pytest.approx(120)
        assert found.undisturbed
        assert found.left_out == runs.count(busy)


def test_without_such_moments_a_time_is_divided_by_the_peak_beside_it() -> None:
    slow = layer([1 / 400] * 20, [(75.0, 75.0)] * 20)  # half the speed, and half the peak
    assert share_of(slow) == pytest.approx(0.8)
    found = layer_share(slow, [HERE] * 20, slow.bytes, PEAK)
    assert not found.undisturbed
    assert found.left_out == 0


def test_runs_in_which_the_peak_moved_do_not_count() -> None:
    moved = [(PEAK, 75.0), (75.0, PEAK)] * 6
    one = layer([1 / 400] * ENOUGH + [1 / 100] * 12, [(75.0, 75.0)] * ENOUGH + moved)
    assert counting_runs(one, PEAK) == list(range(ENOUGH))
    assert share_of(one) == pytest.approx(0.8)
    few = layer([1 / 800] * 12, moved)
    assert counting_runs(few, PEAK) == list(range(12)), "all, where nothing better is left"


def test_a_fast_time_is_no_reason_to_count() -> None:
    # The same peak in all runs: the fastest must not be picked from them.
    times = [1 / 800 * factor for factor in (1.0, 1.1, 1.2, 0.9, 0.8)] * 4
    assert share_of(layer(times, [(PEAK, PEAK)] * 20)) == pytest.approx(0.8)


@given(st.lists(st.floats(0.2, 1.0), min_size=1, max_size=40), st.floats(0.05, 1.5), st.integers(0, 2**32))
def test_a_neighbour_that_slows_both_alike_changes_no_share(
    speeds: list[float], share: float, seed: int
) -> None:
    """Whatever speed the machine has in each run, and in whatever order."""
    random.Random(seed).shuffle(speeds)
    rates = [PEAK * speed for speed in speeds]
    one = layer([FLOPS / (share * rate * 1e9) for rate in rates], [(rate, rate) for rate in rates])
    assert math.isclose(share_of(one, max(rates)), share, rel_tol=1e-9)
    found = layer_share(one, [HERE] * len(rates), one.bytes, max(rates))
    assert found.peak_share_quartiles == pytest.approx((share, share))


def test_what_a_layer_is_bound_by() -> None:
    free = [(PEAK, PEAK)] * 8
    heavy = layer([1e-3] * 8, free, bytes=9_500_000, weight_bytes=9_400_000, flops=FLOPS // 10)
    found = layer_share(heavy, [HERE] * 8, 100 << 20, PEAK)
    assert found.bound == "memory", "weights were last read a hundred megabytes ago"
    assert found.memory_share == pytest.approx(9.4e6 / 10e9 / 1e-3 + 0.1e6 / 20e9 / 1e-3)
    assert layer_share(heavy, [HERE] * 8, 12 << 20, PEAK).bound == "L3"
    assert layer_share(replace(heavy, flops=FLOPS), [HERE] * 8, 100 << 20, PEAK).bound == "compute"
    plain = layer_share(replace(heavy, flops=0, bytes=1000, weight_bytes=0), [HERE] * 8, 100 << 20, PEAK)
    assert (plain.bound, plain.peak_share, plain.peak_share_quartiles) == ("L2", None, None)
    without = Bandwidth(1 << 20, 0, l2=80.0, l3=None, memory=10.0)
    assert layer_share(heavy, [without] * 8, 12 << 20, PEAK).bound == "memory"


def test_groups_of_runs_join_and_touch_all_weights() -> None:
    first = [layer([1.0], [(1.0, 1.0)]), layer([2.0], [(2.0, 1.0)], bytes=300_000)]
    second = [layer([3.0, 5.0], [(3.0, 1.0), (3.0, 1.0)]), layer([4.0, 4.0], [(1.0, 1.0), (1.0, 1.0)])]
    joined = join([first, second])
    assert [one.seconds for one in joined] == [(1.0, 3.0, 5.0), (2.0, 4.0, 4.0)]
    assert len(joined[0].probes) == 3
    assert footprint(joined) == 50_000 + 50_000 + 250_000
    assert [timed.ms for timed in summarise(joined)] == [3000, 4000]


def test_kinds_weigh_their_layers_by_time() -> None:
    free = [(PEAK, PEAK)] * 8
    layers = (
        layer([1 / 500] * 8, free), layer([1 / 1000] * 8, free),
        layer([1e-4] * 8, free, op="softmax", schedule="generic", flops=0),
    )  # fmt: skip
    shares = tuple(layer_share(one, [HERE] * 8, 1, PEAK) for one in layers)
    kinds = by_kind(Profile(layers, tuple(summarise(layers)), shares))
    assert [(kind.name, kind.layers, kind.peak_share) for kind in kinds] == [
        ("conv2d direct", 2, pytest.approx(2 / 3)),
        ("softmax generic", 1, None),
    ]
    assert sum(kind.share for kind in kinds) == pytest.approx(1)


def test_how_the_peak_moved() -> None:
    one = layer([1.0] * 40, [(100.0, 100.0)] * 20 + [(150.0, 150.0)] * 20)
    spread = peak_spread([one], 150)
    assert (spread.low, spread.high, spread.steady) == (100, 150, False)
    assert spread.median == median(np.ravel(one.probes))
    assert peak_spread([layer([1.0] * 3, [(150.0, 149.0)] * 3)], 150).steady


def test_the_fastest_loop_had_the_whole_peak_unless_it_is_known_to_be_slow() -> None:
    one = layer([1 / 800] * 30, [(140.0, 140.0)] * 10 + [(70.0, 70.0)] * 20)
    (scaled,) = in_gflops([one], PEAK)
    assert scaled.probes[0] == pytest.approx((PEAK, PEAK))
    assert scaled.probes[-1] == pytest.approx((PEAK / 2, PEAK / 2))
    slow = layer([1 / 400] * 30, [(75.0, 75.0)] * 30)
    (scaled,) = in_gflops([slow], PEAK, reach=1.0)
    assert not layer_share(scaled, [HERE] * 30, 1, PEAK).undisturbed
    assert share_of(scaled) == pytest.approx(0.8)
    assert in_gflops([layer([1.0], [])], 0.0) == [layer([1.0], [])], "nothing was measured"


def test_a_loop_that_is_slow_and_steady_for_long_is_a_smaller_core() -> None:
    small, busy, free = [80.0, 79.0] * 50, [80.0, 110.0] * 50, [80.0] * 90 + [149.0] * 10
    for rates, watched_s, reach in (
        (small, WATCHED_S, 0.0),
        (small, WATCHED_S / 2, 0.93),  # a neighbour may stay for seconds
        (busy, 2 * WATCHED_S, 0.93),
        (free, 2 * WATCHED_S, 0.93),
        ([], WATCHED_S, 0.93),
    ):
        assert seen_reach(rates, PEAK, 0.93, watched_s) == reach
