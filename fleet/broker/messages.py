"""Messages between the broker and the rest of the fleet."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Protocol


class Receipts(Protocol):
    """Acknowledges messages to their origin, many at once."""

    def acknowledge(self, numbers: list[int]) -> None:
        """Acknowledge the messages with these numbers, in this order."""


@dataclass(slots=True)
class Inbound:
    """A message as received.

    Attributes:
        topic: where it was published.
        payload: its bytes.
        number: what `receipts` acknowledges it by.
        receipts: acknowledges it to its origin.
        received_at: Unix time of arrival.
    """

    topic: str
    payload: bytes
    number: int
    receipts: Receipts
    received_at: float = field(default_factory=time.time)


@dataclass(frozen=True, slots=True)
class Reply:
    """A message to publish once the transaction is committed."""

    topic: str
    payload: bytes


class Publisher(Protocol):
    """Publishes to devices. Never blocks; may drop a message while there is no connection, as retained state is
    sent again."""

    def publish(self, topic: str, payload: bytes, *, retain: bool = False) -> None:
        """Send with QoS 1."""
