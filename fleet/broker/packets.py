"""MQTT 3.1.1 packets, encoded and decoded by hand: for the server's client and for simulated devices, where
microseconds count.

Source: MQTT Version 3.1.1, OASIS Standard, sections 2 and 3.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

CONNACK, PUBLISH, PUBACK, SUBACK, UNSUBACK, PINGRESP = 2, 3, 4, 9, 11, 13
PING, DISCONNECT = b"\xc0\x00", b"\xe0\x00"
MAX_PACKET = 1 << 20
REFUSALS = {
    1: "it does not speak MQTT 3.1.1",
    2: "it does not like our client id",
    3: "it is not available",
    4: "it does not accept the user name or password",
    5: "it does not authorise us",
}


class MalformedPacket(ValueError):
    """The peer does not speak MQTT, or sends a packet larger than we accept."""


def _length(size: int) -> bytes:
    out = bytearray()
    while True:
        size, digit = size >> 7, size & 0x7F
        out.append(digit | (0x80 if size else 0))
        if not size:
            return bytes(out)


def _text(value: str | bytes) -> bytes:
    data = value.encode() if isinstance(value, str) else value
    return struct.pack("!H", len(data)) + data


def connect_packet(
    client_id: str,
    login: tuple[str, str] | None,
    *,
    clean: bool,
    keepalive_s: int,
    will: tuple[str, bytes] | None = None,
) -> bytes:
    """CONNECT; a will is of QoS 1 and retained."""
    flags = 0x02 if clean else 0
    tail = b""
    if will is not None:
        flags |= 0x20 | 0x08 | 0x04
        tail += _text(will[0]) + _text(will[1])
    if login is not None:
        flags |= 0x80 | 0x40
        tail += _text(login[0]) + _text(login[1])
    body = _text("MQTT") + bytes((4, flags)) + struct.pack("!H", keepalive_s) + _text(client_id) + tail
    return b"\x10" + _length(len(body)) + body


def publish_packet(topic: str, payload: bytes, mid: int, *, retain: bool = False, dup: bool = False) -> bytes:
    """PUBLISH with QoS 1."""
    name = _text(topic)
    head = bytes((0x32 | (0x01 if retain else 0) | (0x08 if dup else 0),))
    return head + _length(len(name) + 2 + len(payload)) + name + struct.pack("!H", mid) + payload


def subscribe_packet(filters: list[str], mid: int) -> bytes:
    """SUBSCRIBE with QoS 1 each."""
    body = struct.pack("!H", mid) + b"".join(_text(name) + b"\x01" for name in filters)
    return b"\x82" + _length(len(body)) + body


def unsubscribe_packet(filters: list[str], mid: int) -> bytes:
    """UNSUBSCRIBE."""
    body = struct.pack("!H", mid) + b"".join(_text(name) for name in filters)
    return b"\xa2" + _length(len(body)) + body


def puback_packet(mids: list[int]) -> bytes:
    """One PUBACK for each."""
    return b"".join(b"\x40\x02" + struct.pack("!H", mid) for mid in mids)


@dataclass(slots=True)
class Incoming:
    """A PUBLISH as received; `mid` is 0 for QoS 0."""

    topic: str
    payload: bytes
    mid: int
    retain: bool


def read_publish(head: int, body: bytes) -> Incoming:
    """Decode a PUBLISH.

    Raises:
        MalformedPacket: it is not a PUBLISH.
    """
    if len(body) < 2:
        raise MalformedPacket("a PUBLISH without a topic")
    end = 2 + ((body[0] << 8) | body[1])
    mid = 0
    try:
        topic = body[2:end].decode()
        if head & 0x06:
            mid = (body[end] << 8) | body[end + 1]
            end += 2
    except (UnicodeDecodeError, IndexError) as error:
        raise MalformedPacket(f"a PUBLISH that cannot be read: {error}") from error
    return Incoming(topic, body[end:], mid, bool(head & 0x01))


class PacketStream:
    """Splits a byte stream into packets."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> Iterator[tuple[int, bytes]]:
        """Add bytes; yields each complete packet as its first byte and body.

        Raises:
            MalformedPacket: an invalid length, or one above `MAX_PACKET`.
        """
        if self._rest:
            data = self._rest + data
        position, end = 0, len(data)
        while end - position >= 2:
            size = data[position + 1]
            start = position + 2
            if size & 0x80:
                size &= 0x7F
                shift = 7
                while True:
                    if start >= end:
                        self._rest = data[position:]
                        return
                    digit = data[start]
                    start += 1
                    size |= (digit & 0x7F) << shift
                    shift += 7
                    if not digit & 0x80:
                        break
                    if shift > 21:
                        raise MalformedPacket("a length of more than four bytes")
                if size > MAX_PACKET:
                    raise MalformedPacket(f"a packet of {size} bytes")
            if end - start < size:
                break
            yield data[position], data[start : start + size]
            position = start + size
        self._rest = data[position:]
