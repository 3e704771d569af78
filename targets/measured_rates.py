"""The limits of a machine, as probes measure them: arithmetic, and read bandwidths by source."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Bandwidth:
    """Read rates in billions of bytes per second.

    Attributes:
        l2_bytes: size of the second-level caches of all threads together.
        l3_bytes: size of the third-level cache.
        l2: rate of data that fit into the second-level cache.
        l3: rate of data that fit into the third-level cache; None without one.
        memory: rate of data that fit into neither.
    """

    l2_bytes: int
    l3_bytes: int
    l2: float
    l3: float | None
    memory: float

    def mean(self, other: Bandwidth) -> Bandwidth:
        """The mean of two measurements."""
        l3 = None if self.l3 is None or other.l3 is None else (self.l3 + other.l3) / 2
        l2, memory = (self.l2 + other.l2) / 2, (self.memory + other.memory) / 2
        return Bandwidth(self.l2_bytes, self.l3_bytes, l2, l3, memory)

    def of(self, reach: int) -> tuple[str, float]:
        """The source of data last touched `reach` bytes ago, and its rate."""
        if reach <= self.l2_bytes:
            return "L2", self.l2
        if (
            self.l3 is not None and reach <= self.l3_bytes // 2
        ):  # other cores and virtual machines use it, too
            return "L3", self.l3
        return "memory", self.memory


@dataclass(frozen=True)
class Machine:
    """Probes of this machine.

    Attributes:
        speed: the current rate of a convolution's inner loop in GFLOP/s, measured without disturbing the caches.
        peak: the current highest fp32 rate in GFLOP/s.
        bandwidth: the current read rates.
        reach: share of the peak that the loop is known to reach undisturbed, see `seen_reach`; 0 if unknown, when the
            fastest rate seen counts as undisturbed.
    """

    speed: Callable[[], float]
    peak: Callable[[], float]
    bandwidth: Callable[[], Bandwidth]
    reach: float = 0.0


def best(bandwidths: Sequence[Bandwidth]) -> Bandwidth:
    """The highest rate of each level."""
    l3 = [each.l3 for each in bandwidths if each.l3 is not None]
    return replace(
        bandwidths[0],
        l2=max(each.l2 for each in bandwidths),
        l3=max(l3, default=None),
        memory=max(each.memory for each in bandwidths),
    )
