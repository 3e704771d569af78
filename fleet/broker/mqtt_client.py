"""The server's MQTT connections: sessions that acknowledge a message once it is committed, and one that publishes.

They are hand-written: one thread reads and writes in large pieces, and acknowledges a batch with one write. With a
general-purpose client, Python spends more time on reading a message than on storing it.
"""

from __future__ import annotations

import logging
import random
import select
import socket
import ssl
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from edgec.fleet.broker.messages import Inbound
from edgec.fleet.broker.packets import (
    CONNACK,
    DISCONNECT,
    PING,
    PUBACK,
    PUBLISH,
    REFUSALS,
    SUBACK,
    UNSUBACK,
    MalformedPacket,
    PacketStream,
    connect_packet,
    puback_packet,
    publish_packet,
    read_publish,
    subscribe_packet,
    unsubscribe_packet,
)
from edgec.fleet.errors import FleetError

KEEPALIVE_S = 30
CONNECT_S = 10.0
READ = 1 << 18
FULL_PAUSE_S = 0.02
MAX_WAIT_S = 30.0
SUBSCRIBE_MID = 65535
PERMIT_S = 0.5
QUIET_S = 2.0
"""A session without a subscription is empty once it has delivered nothing for this long."""
log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class BrokerAddress:
    """Address of the broker and the credentials for it; `ca` and `certificate` (with its key) are PEM files."""

    host: str
    port: int
    username: str
    password: str
    tls: bool = False
    ca: Path | None = None
    certificate: tuple[Path, Path] | None = None
    pinned: Path | None = None
    """The exact certificate that the embedded broker presents; its host name is not checked."""

    @staticmethod
    def from_url(url: str) -> BrokerAddress:
        """Read `mqtt[s]://user:password@host:port`."""
        parts = urlsplit(url)
        tls = parts.scheme == "mqtts"
        return BrokerAddress(
            parts.hostname or "localhost",
            parts.port or (8883 if tls else 1883),
            unquote(parts.username or ""),
            unquote(parts.password or ""),
            tls,
        )


@dataclass(frozen=True, slots=True)
class SessionSpec:
    """A session at the broker.

    Attributes:
        client_id: its name at the broker.
        filters: what it subscribes to; empty for a connection that only publishes.
        lasting: whether the broker keeps it, and the messages for it, while no process is connected.
        retiring: unsubscribe instead, take what is left, and have the broker forget the session.
    """

    client_id: str
    filters: tuple[str, ...] = ()
    lasting: bool = True
    retiring: bool = False


class _Lost(ConnectionError):
    """The connection broke or could not be made."""


class _Receipts:
    """Acknowledges messages of one connection. Unacknowledged ones are redelivered on the next, which must not
    see these acknowledgements."""

    def __init__(self, client: MqttClient) -> None:
        self._client = client

    def acknowledge(self, numbers: list[int]) -> None:
        """Acknowledge to the broker, in the order given."""
        self._client._answer(numbers, of=self)


class MqttClient:
    """Receives messages from devices and publishes to them; reconnects by itself.

    `sink` accepts a message if there is room; while there is none, nothing is read. `permit` is asked before each
    connection: a session that another process holds now must not be taken back. `guarded` runs the thread's target
    under a name and handles its death.
    """

    def __init__(
        self,
        address: BrokerAddress,
        spec: SessionSpec,
        sink: Callable[[Inbound], bool],
        permit: Callable[[], bool] = lambda: True,
        guarded: Callable[[str, Callable[[], None]], None] = lambda _name, run: run(),
    ) -> None:
        self._address, self._spec, self._sink, self._permit = address, spec, sink, permit
        self._filters = list(spec.filters)
        self._unanswered = 0
        """Messages of this connection that are not acknowledged yet."""
        self.retired = threading.Event()
        """Set once a retiring session is empty and the broker has forgotten it."""
        self._subscribed = threading.Event()
        self._stopping = threading.Event()
        self._on_connect: Callable[[], None] | None = None
        self._refusal = ""
        self._lock = threading.Lock()
        self._out = bytearray()
        self._receipts: _Receipts | None = None
        self._unconfirmed: dict[int, tuple[str, bytes, bool]] = {}
        self._waiting: list[tuple[str, bytes, bool]] = []
        self._mid = 0
        self._wake_in, self._wake_out = socket.socketpair()
        for end in (self._wake_in, self._wake_out):
            end.setblocking(False)
        self._thread = threading.Thread(
            target=guarded, args=("mqtt client", self._run), name="mqtt-client", daemon=True
        )

    def start(self, on_connect: Callable[[], None], timeout_s: float = 15.0) -> None:
        """Connect and subscribe; `on_connect` is called then and after each reconnect.

        Raises:
            FleetError: no broker, or it refuses us.
        """
        self._on_connect = on_connect
        self.begin()
        end = time.monotonic() + timeout_s
        while not self._subscribed.wait(0.05):
            if time.monotonic() > end or self._refusal:
                self.stop()
                where = f"{self._address.host}:{self._address.port}"
                why = self._refusal or "it does not confirm our subscription"
                if why.startswith("no answer"):
                    raise FleetError(f"no MQTT broker answers at {where} ({why}); check --mqtt")
                raise FleetError(f"the MQTT broker at {where} cannot be used: {why}")

    def begin(self) -> None:
        """Connect, without waiting for it."""
        self._thread.start()

    @property
    def connected(self) -> bool:
        """Whether there is a subscribed connection at this moment."""
        return self._subscribed.is_set()

    @property
    def alive(self) -> bool:
        """Whether the thread runs."""
        return self._thread.is_alive()

    def stop(self) -> None:
        """Disconnect; unacknowledged messages stay with the broker."""
        self._stopping.set()
        self._wake()
        if self._thread.ident is not None:
            self._thread.join(10)

    def publish(self, topic: str, payload: bytes, *, retain: bool = False) -> None:
        """Send with QoS 1; during an outage it waits in memory until the connection is back."""
        with self._lock:
            if retain and not self._subscribed.is_set():
                # Of a retained topic only the latest message matters.
                self._waiting = [item for item in self._waiting if item[0] != topic]
            self._waiting.append((topic, payload, retain))
        self._wake()

    # The thread.

    def _wake(self) -> None:
        try:
            self._wake_in.send(b"\0")
        except (BlockingIOError, OSError):
            return  # The thread is awake already, or has ended.

    def _write(self, data: bytes, *, of: _Receipts) -> None:
        with self._lock:
            if of is not self._receipts:
                return
            self._out += data
        self._wake()

    def _answer(self, numbers: list[int], *, of: _Receipts) -> None:
        with self._lock:
            if of is not self._receipts:
                return
            self._unanswered -= len(numbers)
            self._out += puback_packet(numbers)
        self._wake()

    def _run(self) -> None:
        wait = 1.0
        while not self._stopping.is_set():
            if not self._permit():
                self._stopping.wait(PERMIT_S)
                continue
            began = time.monotonic()
            try:
                self._session()
                if self._spec.retiring and not self._stopping.is_set():
                    self._forget()
                    return
            except (OSError, MalformedPacket) as error:
                self._refusal = self._refusal or f"no answer: {error}"
                if self._subscribed.is_set() or wait > 1:
                    log.warning("lost the broker: %s; connecting again", error)
            finally:
                self._subscribed.clear()
                with self._lock:
                    self._receipts = None
                    self._out.clear()
                    self._unanswered = 0
            wait = 1.0 if time.monotonic() - began > 60 else min(wait * 2, MAX_WAIT_S)
            self._stopping.wait(random.uniform(0.1, wait))

    def _session(self) -> None:
        address = self._address
        with socket.create_connection((address.host, address.port), CONNECT_S) as raw:
            raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with self._secured(raw) as sock:
                sock.sendall(self._connect(clean=not self._spec.lasting))
                sock.setblocking(False)
                receipts = _Receipts(self)
                with self._lock:
                    self._receipts = receipts
                self._serve(sock, receipts)

    def _connect(self, *, clean: bool) -> bytes:
        address = self._address
        login = (address.username, address.password) if address.username else None
        return connect_packet(self._spec.client_id, login, clean=clean, keepalive_s=KEEPALIVE_S)

    def _forget(self) -> None:
        """Have the broker delete the session, which is empty: a clean connection with its name does."""
        address = self._address
        with (
            socket.create_connection((address.host, address.port), CONNECT_S) as raw,
            self._secured(raw) as sock,
        ):
            sock.sendall(self._connect(clean=True))
            if sock.recv(4)[:1] == bytes([CONNACK << 4]):
                self.retired.set()
            sock.sendall(DISCONNECT)

    def _secured(self, raw: socket.socket) -> socket.socket:
        if not self._address.tls:
            return raw
        context = ssl.create_default_context(cafile=self._address.ca or self._address.pinned)
        if self._address.pinned is not None:
            context.check_hostname = False
            context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
        if self._address.certificate is not None:
            context.load_cert_chain(*self._address.certificate)
        return context.wrap_socket(raw, server_hostname=self._address.host)

    def _serve(self, sock: socket.socket, receipts: _Receipts) -> None:
        stream = PacketStream()
        held: list[Inbound] = []
        heard = pinged = delivered = time.monotonic()
        while True:
            empty = self._subscribed.is_set() and not held and self._unanswered <= 0
            done = self._spec.retiring and empty and time.monotonic() - delivered > QUIET_S
            if self._stopping.is_set() or done:
                self._goodbye(sock)
                return
            while held and self._sink(held[0]):
                held.pop(0)
            self._queue_publishes()
            sent = self._flush(sock)
            pending = isinstance(sock, ssl.SSLSocket) and sock.pending() > 0
            readers = [self._wake_out] + ([] if held else [sock])
            timeout = 0 if pending and not held else FULL_PAUSE_S if held else self._pause_s
            readable, _, _ = select.select(readers, [] if sent else [sock], [], timeout)
            if self._wake_out in readable:
                self._wake_out.recv(4096)
            now = time.monotonic()
            if sock in readable or (pending and not held):
                data = _receive(sock)
                if data == b"":
                    raise _Lost("it closed the connection")
                heard = now
                for head, body in stream.feed(data or b""):
                    message = self._packet(head, body, receipts)
                    delivered = now if message is not None else delivered
                    if message is not None and (held or not self._sink(message)):
                        held.append(message)
            if now - pinged > KEEPALIVE_S / 2:
                pinged = now
                self._write(PING, of=receipts)
            if now - heard > 1.5 * KEEPALIVE_S and not held:
                raise _Lost("it has been silent for too long")

    @property
    def _pause_s(self) -> float:
        return QUIET_S / 4 if self._spec.retiring else KEEPALIVE_S / 4

    def _packet(self, head: int, body: bytes, receipts: _Receipts) -> Inbound | None:
        kind = head >> 4
        if kind == PUBLISH:
            message = read_publish(head, body)
            with self._lock:
                self._unanswered += 1
            return Inbound(message.topic, message.payload, message.mid, receipts)
        if kind == PUBACK:
            with self._lock:
                self._unconfirmed.pop((body[0] << 8) | body[1], None)
        elif kind == CONNACK:
            if body[1]:
                self._refusal = REFUSALS.get(body[1], f"it refuses us with code {body[1]}")
                raise _Lost(self._refusal)
            if not self._filters:
                self._now_subscribed(receipts)
            elif self._spec.retiring:
                self._write(unsubscribe_packet(self._filters, SUBSCRIBE_MID), of=receipts)
            else:
                self._write(subscribe_packet(self._filters, SUBSCRIBE_MID), of=receipts)
        elif kind == UNSUBACK:
            self._subscribed.set()
        elif kind == SUBACK:
            if 0x80 in body[2:]:
                self._refusal = f"subscription refused: {self._filters[body[2:].index(0x80)]}"
                raise _Lost(self._refusal)
            self._now_subscribed(receipts)
        return None

    def _now_subscribed(self, receipts: _Receipts) -> None:
        self._refusal = ""
        with self._lock:
            for mid, (topic, payload, retain) in self._unconfirmed.items():
                self._out += publish_packet(topic, payload, mid, retain=retain, dup=True)
        self._subscribed.set()
        if self._on_connect:
            self._on_connect()

    def _queue_publishes(self) -> None:
        if not self._subscribed.is_set():
            return
        with self._lock:
            taken = 0
            for topic, payload, retain in self._waiting:
                if len(self._unconfirmed) >= 30_000:
                    break  # Packet identifiers have 16 bits; the rest waits for acknowledgements.
                mid = self._next_mid()
                self._unconfirmed[mid] = (topic, payload, retain)
                self._out += publish_packet(topic, payload, mid, retain=retain)
                taken += 1
            del self._waiting[:taken]

    def _next_mid(self) -> int:
        while True:
            self._mid = self._mid % (SUBSCRIBE_MID - 1) + 1
            if self._mid not in self._unconfirmed:
                return self._mid

    def _flush(self, sock: socket.socket) -> bool:
        """Write as much as the socket accepts; returns whether nothing is left."""
        with self._lock:
            while self._out:
                try:
                    count = sock.send(memoryview(self._out)[:READ])
                except (BlockingIOError, ssl.SSLWantWriteError, ssl.SSLWantReadError):
                    return False
                del self._out[:count]
        return True

    def _goodbye(self, sock: socket.socket) -> None:
        with self._lock:
            self._out += DISCONNECT
        end = time.monotonic() + 2
        while not self._flush(sock) and time.monotonic() < end:
            select.select([], [sock], [], 0.2)


def _receive(sock: socket.socket) -> bytes | None:
    """The bytes available; empty at the end of the stream, None if there are none after all."""
    try:
        return sock.recv(READ)
    except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
        return None
