"""The broker in this process, for fleets that one machine can carry: amqtt in a thread of its own."""

from __future__ import annotations

import asyncio
import errno
import secrets
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from amqtt.broker import Broker
from amqtt.contexts import Action, BrokerConfig, ListenerConfig
from amqtt.errors import BrokerError
from amqtt.mqtt.puback import PubackPacket
from amqtt.plugins.base import BaseAuthPlugin, BaseTopicPlugin
from amqtt.session import IncomingApplicationMessage, Session

from edgec.fleet.broker.access import SERVER, Access
from edgec.fleet.errors import PortTaken
from edgec.fleet.ingest import Inbound

MAX_CONNECTIONS = 20_000
FULL_PAUSE_S = 0.05
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
        return await asyncio.to_thread(
            rules.may_connect, session.username, session.password, session.client_id or "", will
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

    async def _initialize_client_session(self, *arguments: Any) -> tuple[Any, Session]:  # noqa: ANN401
        handler, session = await super()._initialize_client_session(*arguments)
        ordinary = handler._handle_qos1_message_flow
        order = asyncio.Lock()

        async def flow(message: Any) -> None:  # noqa: ANN401
            topic = message.topic or ""
            ours = isinstance(message, IncomingApplicationMessage) and not message.retain
            if not ours or session.username == SERVER or not self._rules.may_publish(session.username, topic):
                await ordinary(message)
                return
            committed = self._loop.create_future()
            inbound = Inbound(topic, bytes(message.data), lambda: self._settle(committed))
            async with order:
                while not self._sink(inbound):
                    await asyncio.sleep(FULL_PAUSE_S)
            await committed
            message.puback_packet = PubackPacket.build(message.packet_id)
            await handler._send_packet(message.puback_packet)

        handler._handle_qos1_message_flow = flow
        return handler, session

    def _settle(self, committed: asyncio.Future[None]) -> None:
        def settle() -> None:
            if not committed.done():
                committed.set_result(None)

        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(settle)


class EmbeddedBroker:
    """Starts and stops amqtt; ``port`` is the one it really listens on."""

    def __init__(self, host: str, port: int, access: Access, sink: Sink) -> None:
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
            listeners={
                "default": ListenerConfig(bind=f"{host}:{self.port}", max_connections=MAX_CONNECTIONS)
            },
            plugins={f"{__name__}.{plugin.__name__}": rules for plugin in (DeviceAuth, DeviceTopics)},
            timeout_disconnect_delay=5,
        )
        broker = DurableBroker(config, self._access, self._sink)
        await broker.start()
        self._broker = broker

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
            raise PortTaken(taken(host, port, "--mqtt-port", error)) from error
        return int(probe.getsockname()[1])


def taken(host: str, port: int, flag: str, error: OSError) -> str:
    """The sentence for a port that cannot be had."""
    if error.errno == errno.EADDRINUSE:
        return (
            f"port {port} on {host} is taken by another program: choose another with {flag} (0: any free one)"
        )
    return f"cannot listen on {host}:{port} ({error.strerror}): choose another with --host or {flag}"
