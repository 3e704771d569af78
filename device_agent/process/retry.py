"""How long to wait before the next attempt: one policy for downloads, sessions, uploads and child processes."""

from __future__ import annotations

import math
import random
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class RetryPolicy:
    """Exponential back-off with full jitter: a fleet that lost its server does not return as one.

    Attributes:
        first_s: upper bound of the first wait; it doubles with each failure in a row.
        max_s: limit of that bound.
        jitter: draw the wait evenly from zero to the bound; otherwise wait for the bound itself.
        total_s: give up after this time; the caller enforces it.
        immediate: retry this many failures at once, as long as they do not all fall within `window_s`.
        window_s: see `immediate`.
    """

    first_s: float
    max_s: float
    jitter: bool = True
    total_s: float = math.inf
    immediate: int = 0
    window_s: float = 0.0


class Backoff:
    """Counts the failures in a row of one thing and returns the wait after each.

    Args:
        policy: how long to wait.
        clock: seconds, monotonic.
        draw: returns a number between two bounds.
    """

    def __init__(
        self,
        policy: RetryPolicy,
        clock: Callable[[], float] = time.monotonic,
        draw: Callable[[float, float], float] = random.uniform,
    ) -> None:
        self.policy = policy
        self._clock, self._draw = clock, draw
        self._failures = 0
        self._recent: deque[float] = deque(maxlen=policy.immediate or None)

    def failed(self) -> float:
        """Count a failure; returns the seconds to wait before the next attempt."""
        policy = self.policy
        if policy.immediate:
            now = self._clock()
            storm = len(self._recent) == policy.immediate and now - self._recent[0] < policy.window_s
            self._recent.append(now)
            if not storm:
                return 0.0
        bound = min(policy.max_s, policy.first_s * 2.0 ** min(self._failures, 32))
        self._failures += 1
        return self._draw(0.0, bound) if policy.jitter else bound

    def succeeded(self) -> None:
        """Start over with the first wait."""
        self._failures = 0
