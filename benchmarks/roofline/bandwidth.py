"""Read bandwidths by the place that data come from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Bandwidth:
    """Read rates in billions of bytes a second, of data that fit into the second cache, into the third (None
    without one) and into neither; and these caches' sizes in bytes, for all threads together.
    """

    l2_bytes: int
    l3_bytes: int
    l2: float
    l3: float | None
    memory: float

    def mean(self, other: Bandwidth) -> Bandwidth:
        """The rates between two measurements."""
        l3 = None if self.l3 is None or other.l3 is None else (self.l3 + other.l3) / 2
        l2, memory = (self.l2 + other.l2) / 2, (self.memory + other.memory) / 2
        return Bandwidth(self.l2_bytes, self.l3_bytes, l2, l3, memory)

    def of(self, reach: int) -> tuple[str, float]:
        """Where data come from if `reach` bytes were touched since they were last, and the rate from there."""
        if reach <= self.l2_bytes:
            return "L2", self.l2
        if self.l3 is not None and reach <= self.l3_bytes // 2:  # other cores and machines use it, too
            return "L3", self.l3
        return "memory", self.memory


def best(bandwidths: Sequence[Bandwidth]) -> Bandwidth:
    """The highest rate of each kind."""
    l3 = [each.l3 for each in bandwidths if each.l3 is not None]
    return replace(
        bandwidths[0],
        l2=max(each.l2 for each in bandwidths),
        l3=max(l3, default=None),
        memory=max(each.memory for each in bandwidths),
    )
