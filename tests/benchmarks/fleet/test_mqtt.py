"""The devices' connection: what it sends, and what it makes of packets that come in pieces."""

from __future__ import annotations

from typing import Any

import pytest

from edgec.benchmarks.fleet.mqtt import Connection
from edgec.fleet.broker.packets import DISCONNECT, PING, puback_packet, publish_packet, subscribe_packet


class Transport:
    def __init__(self) -> None:
        self.sent: list[bytes] = []
        self.closed = False

    def write(self, data: bytes) -> None:
        self.sent.append(data)

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def seen() -> list[Any]:
    return []


@pytest.fixture
def connection(seen: list[Any]) -> Connection:
    return Connection(
        b"CONNECT", lambda code: seen.append(("ready", code)), lambda topic, text: seen.append((topic, text)),
        lambda mid: seen.append(("ack", mid)), lambda: seen.append("lost"),
    )  # fmt: skip


@pytest.fixture
def transport(connection: Connection) -> Transport:
    made = Transport()
    connection.connection_made(made)  # type: ignore[arg-type]
    return made


def test_packets_arrive_whole_whatever_the_pieces(
    connection: Connection, transport: Transport, seen: list[Any]
) -> None:
    stream = b"\x20\x02\x00\x00" + b"\x40\x02\x01\x02" + publish_packet("edgec/v1/a", b"{}", 7, retain=False)
    for byte in stream:
        connection.data_received(bytes([byte]))
    assert seen == [("ready", 0), ("ack", 258), ("edgec/v1/a", b"{}")]
    assert transport.sent == [b"CONNECT", puback_packet([7])]


def test_each_packet_has_an_identifier_of_its_own(connection: Connection, transport: Transport) -> None:
    assert [connection.publish("t", b"1"), connection.publish("t", b"2", retain=True)] == [1, 2]
    connection.subscribe(["a/#"])
    connection.ping()
    connection.close()
    assert transport.sent[1:] == [
        publish_packet("t", b"1", 1, retain=False), publish_packet("t", b"2", 2, retain=True),
        subscribe_packet(["a/#"], 3), PING, DISCONNECT,
    ]  # fmt: skip
    assert transport.closed


def test_identifiers_begin_anew_and_are_never_zero(connection: Connection) -> None:
    numbers = [connection.next_mid() for _ in range(65536)]
    assert (numbers[-2], numbers[-1], min(numbers)) == (65535, 1, 1)


def test_without_a_connection_nothing_is_sent(
    connection: Connection, transport: Transport, seen: list[Any]
) -> None:
    connection.connection_lost(None)
    assert connection.publish("t", b"1") == 0
    connection.ping()
    assert (seen, transport.sent) == (["lost"], [b"CONNECT"])
