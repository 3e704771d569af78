"""Waits between attempts: they double up to a bound, are jittered, and start over after a success."""

from __future__ import annotations

import itertools

from edgec.device_agent.process.retry import Backoff, RetryPolicy


def upper(_: float, bound: float) -> float:
    return bound


def test_bounds_double_up_to_the_limit_and_start_over() -> None:
    backoff = Backoff(RetryPolicy(first_s=0.5, max_s=3.0), draw=upper)
    assert [backoff.failed() for _ in range(5)] == [0.5, 1.0, 2.0, 3.0, 3.0]
    backoff.succeeded()
    assert backoff.failed() == 0.5


def test_jitter_draws_from_zero_to_the_bound() -> None:
    drawn: list[tuple[float, float]] = []

    def draw(low: float, high: float) -> float:
        drawn.append((low, high))
        return high / 2

    backoff = Backoff(RetryPolicy(first_s=1.0, max_s=8.0), draw=draw)
    assert [backoff.failed(), backoff.failed()] == [0.5, 1.0]
    assert drawn == [(0.0, 1.0), (0.0, 2.0)]
    assert Backoff(RetryPolicy(first_s=5.0, max_s=5.0, jitter=False), draw=draw).failed() == 5.0


def test_a_storm_of_failures_is_waited_out() -> None:
    policy = RetryPolicy(first_s=20.0, max_s=20.0, jitter=False, immediate=5, window_s=60.0)
    clock = itertools.count(0.0, 10.0)
    backoff = Backoff(policy, clock=lambda: next(clock))
    assert [backoff.failed() for _ in range(6)] == [0.0] * 5 + [20.0]
    slow = itertools.count(0.0, 15.0)
    assert [Backoff(policy, clock=lambda: next(slow)).failed() for _ in range(6)] == [0.0] * 6


def test_many_failures_in_a_row_do_not_overflow() -> None:
    backoff = Backoff(RetryPolicy(first_s=1.0, max_s=60.0), draw=upper)
    assert [backoff.failed() for _ in range(3000)][-1] == 60.0
