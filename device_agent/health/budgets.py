"""Limits on processor, memory and temperature: under pressure the least important streams are throttled."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from edgec.device_agent.config.settings import BudgetSection

_CALM = 0.85
"""Below this share of every limit, streams may recover their rate."""
_SLOWEST_FPS = 1.0
_CALM_LOOKS = 3


class Throttled(Protocol):
    """What the budget sees of a stream."""

    throttled: float | None

    @property
    def fps(self) -> float:
        """Its current rate."""

    @property
    def priority(self) -> int:
        """9 is throttled last."""

    def throttle(self, fps: float | None) -> None:
        """Limit its rate, or lift the limit."""


class BudgetKeeper:
    """Checks every few seconds; each check changes one stream, so that the effect shows before the next."""

    def __init__(self, settings: BudgetSection) -> None:
        self._settings = settings
        self._calm = 0
        self._before: dict[str, float] = {}

    def check(
        self,
        streams: Mapping[str, Throttled],
        cpu_percent: float,
        memory_bytes: int,
        temperature_c: float | None,
    ) -> str:
        """Throttle one stream or let one recover; returns what is throttled and why, or an empty string."""
        pressure, why = self._pressure(cpu_percent, memory_bytes, temperature_c)
        for name in [name for name in self._before if name not in streams]:
            del self._before[name]
        if pressure > 1.0:
            self._calm = 0
            self._slow_down(streams)
        elif pressure < _CALM:
            self._calm += 1
            if self._calm >= _CALM_LOOKS:
                self._calm = 0
                self._recover(streams)
        slow = [f"{name} to {one.throttled:.1f} fps" for name, one in streams.items() if one.throttled]
        if slow:
            return f"{why or 'recovering'}: {', '.join(slow)}"
        return why if pressure > 1.0 else ""

    def _pressure(self, cpu: float, memory: int, temperature: float | None) -> tuple[float, str]:
        limits = self._settings
        found = [(0.0, "")]
        if limits.cpu_percent:
            found.append((cpu / limits.cpu_percent, f"processor {cpu:.0f} % of {limits.cpu_percent:.0f} %"))
        if limits.memory_mb:
            used = memory / 1e6
            found.append((used / limits.memory_mb, f"memory at {used:.0f} MB of {limits.memory_mb:.0f} MB"))
        if limits.temperature_c and temperature is not None:
            found.append(
                (temperature / limits.temperature_c, f"{temperature:.0f} °C of {limits.temperature_c:.0f} °C")
            )
        return max(found)

    def _slow_down(self, streams: Mapping[str, Throttled]) -> None:
        able = {
            name: one
            for name, one in streams.items()
            if (one.throttled or one.fps) > _SLOWEST_FPS and one.fps > 0
        }
        if not able:
            return
        name = min(able, key=lambda key: (able[key].priority, -able[key].fps))
        stream = able[name]
        self._before.setdefault(name, stream.fps)
        stream.throttle(max(_SLOWEST_FPS, (stream.throttled or stream.fps) / 2))

    def _recover(self, streams: Mapping[str, Throttled]) -> None:
        slow = {name: one for name, one in streams.items() if one.throttled}
        if not slow:
            return
        name = max(slow, key=lambda key: slow[key].priority)
        stream = slow[name]
        wanted = (stream.throttled or 0) * 1.5
        stream.throttle(None if wanted >= self._before.get(name, wanted) else wanted)
