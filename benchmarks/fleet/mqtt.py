"""A minimal MQTT connection, for very many devices in one process."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import cast

from edgec.fleet.broker.packets import (
    CONNACK,
    DISCONNECT,
    PING,
    PUBACK,
    PUBLISH,
    PacketStream,
    puback_packet,
    publish_packet,
    read_publish,
    subscribe_packet,
)


class Connection(asyncio.Protocol):
    """One device's connection. `on_ready(code)` after CONNACK, `on_message(topic, payload)`,
    `on_ack(mid)`, `on_lost()`."""

    def __init__(
        self,
        hello: bytes,
        on_ready: Callable[[int], None],
        on_message: Callable[[str, bytes], None],
        on_ack: Callable[[int], None],
        on_lost: Callable[[], None],
    ) -> None:
        self._hello = hello
        self._on_ready, self._on_message, self._on_ack = on_ready, on_message, on_ack
        self._on_lost = on_lost
        self._stream = PacketStream()
        self._mid = 0
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Send CONNECT."""
        # uvloop's transports are not registered as subclasses of asyncio.Transport.
        self.transport = cast(asyncio.Transport, transport)
        self.transport.write(self._hello)

    def connection_lost(self, _error: Exception | None) -> None:
        """Notify the owner."""
        self.transport = None
        self._on_lost()

    def next_mid(self) -> int:
        """A packet identifier, 1 to 65535."""
        self._mid = self._mid % 65535 + 1
        return self._mid

    def publish(self, topic: str, payload: bytes, *, retain: bool = False) -> int:
        """Publish with QoS 1; returns the packet identifier, 0 without a connection."""
        if self.transport is None:
            return 0
        mid = self.next_mid()
        self.transport.write(publish_packet(topic, payload, mid, retain=retain))
        return mid

    def subscribe(self, filters: list[str]) -> None:
        """Send SUBSCRIBE."""
        if self.transport is not None:
            self.transport.write(subscribe_packet(filters, self.next_mid()))

    def ping(self) -> None:
        """Send PINGREQ."""
        if self.transport is not None:
            self.transport.write(PING)

    def close(self) -> None:
        """Send DISCONNECT."""
        if self.transport is not None:
            self.transport.write(DISCONNECT)
            self.transport.close()

    def data_received(self, data: bytes) -> None:
        """Parse packets from the stream."""
        for head, body in self._stream.feed(data):
            kind = head >> 4
            if kind == PUBACK:
                self._on_ack((body[0] << 8) | body[1])
            elif kind == PUBLISH:
                message = read_publish(head, body)
                if message.mid and self.transport is not None:
                    self.transport.write(puback_packet([message.mid]))
                self._on_message(message.topic, message.payload)
            elif kind == CONNACK:
                self._on_ready(body[1])
