"""The connection to the broker: one thread, one paho client per session, backed by our own outbox.

A fresh client for each session bypasses paho's in-memory queue: unacknowledged messages are sent again from the
outbox, in order. Waits between attempts have full jitter, so that a fleet that lost its broker does not return as one.
"""

from __future__ import annotations

import logging
import os
import secrets
import select
import ssl
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.reasoncodes import ReasonCode

from edgec.device_agent.cloud.outbox import Outbox
from edgec.device_agent.errors import StateError
from edgec.device_agent.process.causes import cause_of
from edgec.device_agent.process.retry import Backoff, RetryPolicy
from edgec.device_agent.process.statefile import StateFile
from edgec.protocol.codec import MAX_PAYLOAD_BYTES, encode
from edgec.protocol.status import Presence, Status
from edgec.protocol.topics import Topics

log = logging.getLogger("uplink")

_WINDOW = 64
"""Maximum number of unacknowledged messages."""
_CONNECT_S = 10.0
_ACK_S = 60.0
_FIRST_WAIT_S = 1.0


@dataclass(frozen=True)
class Broker:
    """Address of the broker and our credentials."""

    host: str
    port: int
    username: str | None = None
    password: str | None = None
    tls: bool = False
    ca: Path | None = None
    ca_pem: str | None = None
    certificate: tuple[Path, Path] | None = None
    """The device's certificate and key; read for each session, as they are renewed."""
    keepalive_s: int = 30
    reconnect_max_s: float = 60.0


@dataclass(frozen=True)
class Identity:
    """What the device reports about itself in its status."""

    boot_id: str
    agent_version: str
    target: str
    labels: dict[str, str]


class SessionLost(ConnectionError):
    """The connection broke or could not be made."""


class Publisher(Protocol):
    """What the rest of the agent sees of the connection."""

    connected: bool
    session_seq: int
    errors: int
    """Number of unexpected errors caught; each is a defect."""

    def start(self) -> None:
        """Begin to connect."""

    def notify(self) -> None:
        """Send what is new in the outbox."""

    def publish_now(self, topic: str, payload: bytes, *, retain: bool = False) -> bool:
        """Send something that is worthless later (health); returns whether there is a session."""

    def stand_back(self, seconds: float) -> None:
        """End the session without a word, and begin the next one after `seconds`."""

    def stop(self) -> None:
        """End the session."""


class NoBroker:
    """A `Publisher` for a device without a broker: events stay in the outbox."""

    connected = False
    session_seq = 0
    errors = 0

    def start(self) -> None:
        """Log that nothing will be sent."""
        log.warning("no broker is configured and the device is not enrolled: events stay in the outbox")

    def notify(self) -> None:
        """Send nothing."""

    def publish_now(self, topic: str, payload: bytes, *, retain: bool = False) -> bool:
        """Send nothing."""
        return False

    def stand_back(self, seconds: float) -> None:
        """Nothing to end."""

    def stop(self) -> None:
        """Nothing to end."""


class MqttClient:
    """Keeps a session with the broker for as long as the agent runs.

    `on_message(topic, payload)` and `on_session(connected)` are called from this object's thread.
    """

    def __init__(
        self,
        broker: Broker,
        topics: Topics,
        identity: Identity,
        outbox: Outbox,
        session_file: StateFile,
        on_message: Callable[[str, bytes], None],
        on_session: Callable[[bool], None],
    ) -> None:
        self._broker, self._topics, self._identity = broker, topics, identity
        self._outbox, self._session_file = outbox, session_file
        self._on_message, self._on_session = on_message, on_session
        record = session_file.load()
        if record.problem:
            log.warning("the record of sessions: %s", record.problem)
        self.session_seq = int(record.data.get("session_seq", 0))
        self._tokens: list[str] = [str(one) for one in record.data.get("tokens", [])]
        """Of this session and those before it, newest first: see `Status.before`."""
        self._stand_back_s = 0.0
        self.connected = False
        self.sessions = 0
        self.sent = self.errors = 0
        self._wake = os.eventfd(0, os.EFD_NONBLOCK)
        self._stopping = threading.Event()
        self._direct: list[tuple[str, bytes, bool]] = []
        self._lock = threading.Lock()
        self._inflight: dict[int, int] = {}
        self._keys: set[int] = set()
        self._oldest_unacked = 0.0
        self._thread = threading.Thread(target=self._run, name="uplink", daemon=True)

    def start(self) -> None:
        """Begin to connect."""
        self._thread.start()

    def notify(self) -> None:
        """Send what is new in the outbox."""
        os.eventfd_write(self._wake, 1)

    def publish_now(self, topic: str, payload: bytes, *, retain: bool = False) -> bool:
        """Send something that is worthless later (health); returns whether there is a session."""
        if not self.connected:
            return False
        with self._lock:
            self._direct.append((topic, payload, retain))
        self.notify()
        return True

    def stand_back(self, seconds: float) -> None:
        """End the session without a word, and begin the next one after `seconds`."""
        self._stand_back_s = seconds
        self.notify()

    def stop(self, timeout_s: float = 5.0) -> None:
        """Send what is in the outbox, as far as time allows, then the status `stopped`."""
        self._stopping.set()
        self.notify()
        self._thread.join(timeout_s)

    # The thread.

    def _run(self) -> None:
        backoff = Backoff(RetryPolicy(_FIRST_WAIT_S, self._broker.reconnect_max_s))
        while not self._stopping.is_set():
            began = time.monotonic()
            try:
                self._session()
            except (OSError, ValueError, SessionLost) as error:
                log.warning("no broker at %s:%s: %s", self._broker.host, self._broker.port, cause_of(error))
            except Exception:
                # A defect, ours or the client library's: counted and reported in health; the next session tries again.
                self.errors += 1
                log.exception("the broker session failed in an unexpected way (number %s)", self.errors)
            if self.connected:
                self.connected = False
                self._on_session(False)
            if time.monotonic() - began > 2 * self._broker.keepalive_s:
                backoff.succeeded()
            if not self._stopping.is_set():
                pause_s, self._stand_back_s = self._stand_back_s or backoff.failed(), 0.0
                self._stopping.wait(pause_s)

    def _new_client(self) -> mqtt.Client:
        broker = self._broker
        client = mqtt.Client(
            CallbackAPIVersion.VERSION2,
            client_id=f"edgec-{self._topics.fleet}-{self._topics.device}",
            protocol=mqtt.MQTTv311,
            clean_session=True,
        )
        client.max_inflight_messages_set(_WINDOW + 32)
        client.connect_timeout = _CONNECT_S
        if broker.username is not None:
            client.username_pw_set(broker.username, broker.password)
        if broker.tls:
            context = ssl.create_default_context(
                cafile=str(broker.ca) if broker.ca else None, cadata=broker.ca_pem
            )
            if broker.certificate is not None:
                context.load_cert_chain(*broker.certificate)
            client.tls_set_context(context)
        return client

    def _status(self, state: Presence) -> bytes:
        identity = self._identity
        return encode(
            Status(
                state=state,
                boot_id=identity.boot_id,
                session_seq=self.session_seq,
                agent_version=identity.agent_version,
                target=identity.target,
                labels=identity.labels,
                session=self._tokens[0],
                before=self._tokens[1:] if state is Presence.ONLINE else [],
            )
        )

    def _next_session(self) -> None:
        self.session_seq += 1
        self._tokens = [secrets.token_hex(8), *self._tokens][: Status.REMEMBERED]
        try:
            self._session_file.save({"session_seq": self.session_seq, "tokens": self._tokens})
        except StateError as error:
            log.error("%s; the session number is in memory only", error)

    def _session(self) -> None:
        self._next_session()
        client = self._new_client()
        self._inflight.clear()
        self._keys.clear()
        refused: list[str] = []
        accepted = threading.Event()

        def connected(_c: mqtt.Client, _u: object, _f: object, reason: ReasonCode, _p: object) -> None:
            if reason.is_failure:
                refused.append(str(reason))
            else:
                accepted.set()

        client.on_connect = connected
        client.on_publish = lambda _c, _u, mid, _r, _p: self._published(mid)
        client.on_message = lambda _c, _u, message: self._received(message)
        client.will_set(self._topics.status, self._status(Presence.OFFLINE), qos=1, retain=True)
        try:
            client.connect(self._broker.host, self._broker.port, keepalive=self._broker.keepalive_s)
            deadline = time.monotonic() + _CONNECT_S
            while not accepted.is_set():
                self._turn(client, 0.2)
                if refused:
                    raise SessionLost(f"the broker refused the connection: {refused[0]}")
                if time.monotonic() > deadline or self._stopping.is_set():
                    raise SessionLost("no answer to CONNECT")
            self._serve(client)
        finally:
            self._drop(client)

    def _serve(self, client: mqtt.Client) -> None:
        client.subscribe([(name, 1) for name in self._topics.subscriptions()])
        client.publish(self._topics.status, self._status(Presence.ONLINE), qos=1, retain=True)
        self.sessions += 1
        self.connected = True
        log.info("connected to %s:%s, session %s", self._broker.host, self._broker.port, self.session_seq)
        self._on_session(True)
        while not self._stopping.is_set() and not self._stand_back_s:
            self._send(client)
            self._turn(client, 1.0)
        if self._stopping.is_set():
            self._goodbye(client)

    def _goodbye(self, client: mqtt.Client) -> None:
        deadline = time.monotonic() + 3.0
        while time.monotonic() < deadline and (self._inflight or self._outbox.peek(1, self._keys)):
            self._send(client)
            self._turn(client, 0.2)
        last = client.publish(self._topics.status, self._status(Presence.STOPPED), qos=1, retain=True)
        while time.monotonic() < deadline and not last.is_published():
            self._turn(client, 0.2)

    def _send(self, client: mqtt.Client) -> None:
        with self._lock:
            direct, self._direct = self._direct, []
        for topic, payload, retain in direct:
            client.publish(topic, payload, qos=1, retain=retain)
        room = _WINDOW - len(self._inflight)
        if room <= 0:
            return
        for entry in self._outbox.peek(room, self._keys):
            info = client.publish(entry.topic, entry.payload, qos=1)
            if not self._inflight:
                self._oldest_unacked = time.monotonic()
            self._inflight[info.mid] = entry.key
            self._keys.add(entry.key)

    def _published(self, mid: int) -> None:
        key = self._inflight.pop(mid, None)
        if key is not None:
            self.sent += 1
            self._oldest_unacked = time.monotonic()
            self._outbox.acknowledge(key)
            self._keys.discard(key)

    def _received(self, message: mqtt.MQTTMessage) -> None:
        if len(message.payload) > MAX_PAYLOAD_BYTES:
            log.warning(
                "a message of %s bytes on %s is too long and was dropped", len(message.payload), message.topic
            )
            return
        self._on_message(message.topic, bytes(message.payload))

    def _turn(self, client: mqtt.Client, timeout_s: float) -> None:
        """Wait for the socket or a wake-up, and let paho do its part.

        Raises:
            SessionLost: the connection is gone.
        """
        sock = client.socket()
        if sock is None:
            raise SessionLost("the connection is gone")
        pending = getattr(sock, "pending", lambda: 0)()
        number = sock.fileno()
        writers = [number] if client.want_write() else []
        readable, writable, _ = select.select([number, self._wake], writers, [], 0 if pending else timeout_s)
        if self._wake in readable:
            os.eventfd_read(self._wake)
        code = mqtt.MQTT_ERR_SUCCESS
        if number in readable or pending:
            code = client.loop_read()
        if code == mqtt.MQTT_ERR_SUCCESS and writable:
            code = client.loop_write()
        if code == mqtt.MQTT_ERR_SUCCESS:
            code = client.loop_misc()
        if code != mqtt.MQTT_ERR_SUCCESS:
            raise SessionLost(mqtt.error_string(code))
        if self._inflight and time.monotonic() - self._oldest_unacked > _ACK_S:
            raise SessionLost("the broker no longer acknowledges messages")

    def _drop(self, client: mqtt.Client) -> None:
        client.on_publish = None
        if (self._stopping.is_set() or self._stand_back_s) and client.is_connected():
            client.disconnect()
            client.loop_write()
        sock = client.socket()
        if sock is not None:
            sock.close()
