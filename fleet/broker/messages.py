"""Messages between the broker and the rest of the fleet."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Protocol


class Receipts(Protocol):
    """Confirms messages to where they came from, many at once."""

    def acknowledge(self, numbers: list[int]) -> None:
        """Confirm the messages of these numbers, in this order."""


@dataclass(slots=True)
class Inbound:
    """A message as it came; ``receipts`` confirms it by its ``number``."""

    topic: str
    payload: bytes
    number: int
    receipts: Receipts
    received_at: float = field(default_factory=time.time)


@dataclass(frozen=True, slots=True)
class Reply:
    """Something to publish once the transaction is committed."""

    topic: str
    payload: bytes


class Publisher(Protocol):
    """Sends to devices; never blocks, and may drop when there is no connection (retained state is sent
    again)."""

    def publish(self, topic: str, payload: bytes, *, retain: bool = False) -> None:
        """Send with QoS 1."""
