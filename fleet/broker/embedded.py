"""The broker in this process, for fleets that one machine can carry: amqtt in a thread of its own."""

from __future__ import annotations

import asyncio
import errno
import logging
import secrets
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from amqtt.broker import Broker
from amqtt.contexts import Action, BrokerConfig, ListenerConfig
from amqtt.errors import BrokerError
from amqtt.mqtt.puback import PubackPacket
from amqtt.plugins.base import BaseAuthPlugin, BaseTopicPlugin
from amqtt.session import IncomingApplicationMessage, Session

from edgec.fleet.broker.access import SERVER, Access
from edgec.fleet.broker.messages import Inbound
from edgec.fleet.certificates.authority import peer_identity
from edgec.fleet.errors import PortTaken

MAX_CONNECTIONS = 20_000
LIMIT = 1000
"""Connections from which the server, its metrics and its dashboard advise a broker of one's own."""
FULL_PAUSE_S = 0.05
REFUSED = 0x80
NEAR = 0.8
log = logging.getLogger(__name__)
Sink = Callable[[Inbound], bool]
"""Takes a message if there is room."""


_RULES: dict[str, Access] = {}
"""By key: amqtt builds its plugins itself, from their names and plain settings."""


@dataclass
class RuleKey:
    """Settings of both plugins: under which key the rules of their broker are."""

    key: str = ""


class DeviceAuth(BaseAuthPlugin):  # type: ignore[misc]
    """Lets devices in with their own password."""

    Config = RuleKey

    async def authenticate(self, *, session: Session) -> bool:
        """Check user, password, client id and last will."""
        will = session.will_topic if session.will_flag else None
        rules = _RULES[self.config.key]
        der = session.ssl_object.getpeercert(binary_form=True) if session.ssl_object else None
        shown = peer_identity(der) if der else None
        username = session.username or (shown[1] if shown else None)
        if username and not session.username:
            session.username = username  # The certificate says who it is.
        return await asyncio.to_thread(
            rules.may_connect, username, session.password, session.client_id or "", will, shown
        )


class DeviceTopics(BaseTopicPlugin):  # type: ignore[misc]
    """Keeps each device to its own topics."""

    Config = RuleKey

    async def topic_filtering(
        self, *, session: Session | None = None, topic: str | None = None, action: Action | None = None
    ) -> bool:
        """Check one publish, subscription or delivery."""
        rules = _RULES[self.config.key]
        username = session.username if session else None
        if action == Action.PUBLISH:
            return rules.may_publish(username, topic or "")
        return rules.may_receive(username, topic or "")


class Filters(dict[str, list[tuple[Session, int]]]):
    """Subscriptions by filter, found by topic without going through all of them.

    Iterating gives nothing. amqtt iterates in two places: when a device connects it would offer it every message
    that is retained for anybody's subscription, and when one leaves it would search all for its own, which
    :meth:`DurableBroker._del_all_subscriptions` knows better.
    """

    def __init__(self) -> None:
        super().__init__()
        self._wild: dict[tuple[str, ...], set[str]] = {}

    def __iter__(self) -> Iterator[str]:
        return iter(())

    def __setitem__(self, key: str, value: list[tuple[Session, int]]) -> None:
        super().__setitem__(key, value)
        if (fixed := _fixed_part(key)) is not None:
            self._wild.setdefault(fixed, set()).add(key)

    def __delitem__(self, key: str) -> None:
        super().__delitem__(key)
        if (fixed := _fixed_part(key)) is not None:
            self._wild[fixed].discard(key)
            if not self._wild[fixed]:
                del self._wild[fixed]

    def clear(self) -> None:
        """Forget all."""
        super().clear()
        self._wild.clear()

    def candidates(self, topic: str) -> list[str]:
        """Filters that may match ``topic``."""
        found = [topic] if topic in self and _fixed_part(topic) is None else []
        levels = topic.split("/")
        for count in range(len(levels) + 1):
            found += self._wild.get(tuple(levels[:count]), ())
        return found


def _fixed_part(name: str) -> tuple[str, ...] | None:
    """The levels before the first wildcard; None if there is none."""
    levels = name.split("/")
    for index, level in enumerate(levels):
        if "+" in level or "#" in level:
            return tuple(levels[:index])
    return None


class DurableBroker(Broker):  # type: ignore[misc]
    """Acknowledges what a device says once it is committed, not when it was merely read.

    amqtt confirms a QoS 1 message on arrival; a crash before the database had it would lose what the
    device, believing the confirmation, has already dropped from its outbox. So these messages go straight
    to the ingest, and their PUBACK is sent after the commit. Other traffic takes amqtt's own way.
    """

    def __init__(self, config: BrokerConfig, rules: Access, sink: Sink) -> None:
        super().__init__(config)
        self._rules = rules
        self._sink = sink
        self._receipts = _Receipts(self._loop)
        self._subscriptions = Filters()
        self._filters_of: dict[str, set[str]] = {}
        self._warned = False

    def _warn_near_limit(self) -> None:
        if self._warned or len(self._sessions) < NEAR * LIMIT:
            return
        self._warned = True
        log.warning(
            "the embedded broker has %d of the %d devices that it is meant for: use one of your own (--mqtt)",
            len(self._sessions), LIMIT,
        )  # fmt: skip

    async def add_subscription(self, subscription: tuple[str, int], session: Session) -> int:
        """Subscribe; remembers what the client has, and gives it what is retained there."""
        code: int = await super().add_subscription(subscription, session)
        if code != REFUSED:
            self._filters_of.setdefault(session.client_id or "", set()).add(subscription[0])
        return code

    async def _del_all_subscriptions(self, session: Session) -> None:
        for name in self._filters_of.pop(session.client_id or "", set()):
            self._del_subscription(name, session)
            if not self._subscriptions.get(name, [None]):
                del self._subscriptions[name]

    async def _publish_retained_messages_for_subscription(
        self, subscription: tuple[str, int], session: Session
    ) -> None:
        # amqtt sends what is retained for a filter even if it has just refused the subscription.
        name = subscription[0]
        if not self._rules.may_receive(session.username, name):
            return
        if _fixed_part(name) is None:
            retained = self._retained_messages.get(name)
            handler = self._get_handler(session)
            if retained is not None and handler is not None:
                qos = min(subscription[1], retained.qos or subscription[1])
                await handler.mqtt_publish(retained.topic, retained.data, qos, retain=True)
            return
        if session.username == SERVER:  # Nothing that a device hears of by a wildcard is ever retained.
            await super()._publish_retained_messages_for_subscription(subscription, session)

    async def _run_broadcast(self, running_tasks: Any) -> None:  # noqa: ANN401 - a deque of tasks
        broadcast = await self._broadcast_queue.get()
        topic = broadcast["topic"]
        for name in self._subscriptions.candidates(topic):
            if not self._matches(topic, name):
                continue
            for session, granted in list(self._subscriptions.get(name, ())):
                qos = broadcast.get("qos", granted)
                if not self._rules.may_receive(session.username, topic):
                    continue
                if session.transitions.state != "connected":
                    if not session.clean_session and qos > 0:
                        await self._retain_broadcast_message(broadcast, qos, session)
                    continue
                if handler := self._get_handler(session):
                    work = handler.mqtt_publish(topic, broadcast["data"], qos, retain=False)
                    running_tasks.append(asyncio.ensure_future(work))

    async def _initialize_client_session(self, *arguments: Any) -> tuple[Any, Session]:  # noqa: ANN401
        handler, session = await super()._initialize_client_session(*arguments)
        self._warn_near_limit()
        ordinary = handler._handle_qos1_message_flow
        order = asyncio.Lock()

        async def flow(message: Any) -> None:  # noqa: ANN401
            topic = message.topic or ""
            ours = isinstance(message, IncomingApplicationMessage) and not message.retain
            if not ours or session.username == SERVER or not self._rules.may_publish(session.username, topic):
                await ordinary(message)
                return
            committed = self._loop.create_future()
            inbound = Inbound(topic, bytes(message.data), self._receipts.number(committed), self._receipts)
            async with order:
                while not self._sink(inbound):
                    await asyncio.sleep(FULL_PAUSE_S)
            await committed
            message.puback_packet = PubackPacket.build(message.packet_id)
            await handler._send_packet(message.puback_packet)

        handler._handle_qos1_message_flow = flow
        return handler, session


class _Receipts:
    """The messages that wait for their commit; confirmed from the ingest's thread, many at once."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._waiting: dict[int, asyncio.Future[None]] = {}
        self._last = 0

    def number(self, committed: asyncio.Future[None]) -> int:
        """A number for a message; within the loop."""
        self._last += 1
        self._waiting[self._last] = committed
        return self._last

    def acknowledge(self, numbers: list[int]) -> None:
        """From any thread: these are committed."""
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._settle, numbers)

    def _settle(self, numbers: list[int]) -> None:
        for number in numbers:
            committed = self._waiting.pop(number, None)
            if committed is not None and not committed.done():
                committed.set_result(None)


@dataclass(frozen=True, slots=True)
class Tls:
    """PEM files of a TLS server; clients may show a certificate of ``client_ca``."""

    certificate: Path
    key: Path
    client_ca: Path | None


class EmbeddedBroker:
    """Starts and stops amqtt; ``port`` is the one it really listens on."""

    def __init__(self, host: str, port: int, access: Access, sink: Sink, tls: Tls | None = None) -> None:
        self._tls = tls
        self._host = host
        self._wanted = port
        self._key = secrets.token_hex(8)
        self._access = access
        self._sink = sink
        _RULES[self._key] = access
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="broker", daemon=True)
        self._broker: Any = None
        self.port = 0

    def start(self) -> None:
        """Listen.

        Raises:
            PortTaken: another program has the port, or it may not be used.
        """
        self.port = _probe(self._host, self._wanted)
        self._thread.start()
        try:
            asyncio.run_coroutine_threadsafe(self._start(), self._loop).result(30)
        except BrokerError as error:
            self._end_loop()
            raise PortTaken(f"the MQTT broker cannot listen on {self._host}:{self.port}: {error}") from error

    async def _start(self) -> None:
        host = f"[{self._host}]" if ":" in self._host else self._host
        rules = {"key": self._key}
        config = BrokerConfig(
            listeners={"default": self._listener(f"{host}:{self.port}")},
            plugins={f"{__name__}.{plugin.__name__}": rules for plugin in (DeviceAuth, DeviceTopics)},
            timeout_disconnect_delay=5,
        )
        broker = DurableBroker(config, self._access, self._sink)
        await broker.start()
        self._broker = broker

    def _listener(self, bind: str) -> ListenerConfig:
        if self._tls is None:
            return ListenerConfig(bind=bind, max_connections=MAX_CONNECTIONS)
        return ListenerConfig(
            bind=bind, max_connections=MAX_CONNECTIONS, ssl=True, cafile=self._tls.client_ca,
            certfile=self._tls.certificate, keyfile=self._tls.key,
        )  # fmt: skip

    def sessions(self) -> int:
        """How many clients are connected."""
        if self._broker is None:
            return 0
        states = [session.transitions.state for session, _handler in list(self._broker.sessions.values())]
        return states.count("connected")

    def disconnect(self, username: str) -> None:
        """Close the connections of a device, so that a revocation takes effect at once."""
        asyncio.run_coroutine_threadsafe(self._disconnect(username), self._loop).result(10)

    async def _disconnect(self, username: str) -> None:
        for session, handler in list(self._broker.sessions.values()):
            if session.username == username and session.transitions.state == "connected":
                await handler.handle_connection_closed()
                await handler.stop()

    def stop(self) -> None:
        """Close every connection and the port."""
        if self._broker is not None:
            asyncio.run_coroutine_threadsafe(self._broker.shutdown(), self._loop).result(30)
            self._broker = None
        _RULES.pop(self._key, None)
        self._end_loop()

    def _end_loop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        if not self._loop.is_running():
            self._loop.close()


def _probe(host: str, port: int) -> int:
    """The port to listen on, found free a moment ago."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise PortTaken(port_taken(host, port, "--mqtt-port", error)) from error
        return int(probe.getsockname()[1])


def port_taken(host: str, port: int, flag: str, error: OSError) -> str:
    """The sentence for a port that cannot be had."""
    if error.errno == errno.EADDRINUSE:
        return (
            f"port {port} on {host} is taken by another program: choose another with {flag} (0: any free one)"
        )
    return f"cannot listen on {host}:{port} ({error.strerror}): choose another with --host or {flag}"
