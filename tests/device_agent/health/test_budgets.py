"""Budgets: the least important stream is throttled first, and recovers."""

from __future__ import annotations

from edgec.device_agent.config.settings import BudgetSection
from edgec.device_agent.health.budgets import BudgetKeeper


class Stream:
    def __init__(self, priority: int, fps: float) -> None:
        self.priority, self.full, self.throttled = priority, fps, None

    @property
    def fps(self) -> float:
        return min(self.full, self.throttled or self.full)

    def throttle(self, fps: float | None) -> None:
        self.throttled = fps


def test_a_budget_slows_the_least_important_first_and_lets_it_recover() -> None:
    streams = {"door": Stream(9, 20.0), "yard": Stream(1, 20.0)}
    keeper = BudgetKeeper(BudgetSection(cpu_percent=110))

    def load() -> float:
        return 5.0 * sum(one.fps for one in streams.values())

    said = [keeper.check(streams, load(), 0, None) for _ in range(10)]
    assert "yard" in said[1]
    assert load() <= 110
    assert streams["door"].throttled is None
    streams["door"].full = 4.0  # the door became cheap: there is room again
    for _ in range(40):
        keeper.check(streams, load() / 4, 0, None)
    assert streams["yard"].throttled is None
