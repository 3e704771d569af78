"""Progress reports of a compile's stages."""

from __future__ import annotations

from typing import Protocol, runtime_checkable


@runtime_checkable
class Progress(Protocol):
    """Receives a compile's stages; the command line renders them, tests record them."""

    def stage(self, name: str, total: int | None = None) -> None:
        """Begin the stage `name`; `total` steps are expected when known."""

    def advance(self, n: int = 1) -> None:
        """Count `n` finished steps of the stage that began last."""

    def detail(self, text: str) -> None:
        """Describe how far the stage that began last has come, in a few words."""

    def note(self, text: str) -> None:
        """Report an event in one line (a dropped candidate, a cache hit)."""


class Silent:
    """A `Progress` that shows nothing."""

    def stage(self, name: str, total: int | None = None) -> None:
        """Ignore the stage."""

    def advance(self, n: int = 1) -> None:
        """Ignore the steps."""

    def detail(self, text: str) -> None:
        """Ignore the text."""

    def note(self, text: str) -> None:
        """Ignore the text."""
