"""Degraded parts of the agent: reported in every health message until they are cleared."""

from __future__ import annotations

import logging
from collections.abc import Callable

log = logging.getLogger("agent")


class Degraded:
    """The parts that are degraded and why; `on_change` is called when that changes."""

    def __init__(self, on_change: Callable[[], None]) -> None:
        self._on_change = on_change
        self._why: dict[str, str] = {}

    def record(self, what: str, why: str) -> None:
        """Log and record what is wrong, once for each reason."""
        if self._why.get(what) != why:
            log.error("%s: %s", what, why)
            self._why[what] = why
            self._on_change()

    def clear(self, what: str) -> None:
        """The part works again."""
        if self._why.pop(what, None) is not None:
            self._on_change()

    def lines(self) -> list[str]:
        """Return a sentence for each."""
        return [f"{what}: {why}" for what, why in self._why.items()]
