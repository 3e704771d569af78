"""The embedded broker, for fleets that one machine can carry: amqtt in a thread of its own."""

from __future__ import annotations

import asyncio
import errno
import secrets
import socket
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from amqtt.contexts import BrokerConfig, ListenerConfig
from amqtt.errors import BrokerError

from edgec.fleet.broker.access import Access
from edgec.fleet.broker.durable import DurableBroker, Sink
from edgec.fleet.broker.plugins import RULES, DeviceAuth, DeviceTopics
from edgec.fleet.errors import PortTaken

MAX_CONNECTIONS = 20_000


@dataclass(frozen=True, slots=True)
class Tls:
    """PEM files of a TLS server.

    Attributes:
        certificate: the chain to present.
        key: its private key.
        client_ca: issuer of the certificates that clients may present; None for none.
    """

    certificate: Path
    key: Path
    client_ca: Path | None


class EmbeddedBroker:
    """Starts and stops amqtt; `port` is the port it actually listens on."""

    def __init__(self, host: str, port: int, access: Access, sink: Sink, tls: Tls | None = None) -> None:
        self._tls = tls
        self._host = host
        self._wanted = port
        self._key = secrets.token_hex(8)
        self._access = access
        self._sink = sink
        RULES[self._key] = access
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="broker", daemon=True)
        self._broker: Any = None
        self.port = 0

    def start(self) -> None:
        """Listen.

        Raises:
            PortTaken: the port is in use or may not be used.
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
            plugins={
                f"{plugin.__module__}.{plugin.__name__}": rules for plugin in (DeviceAuth, DeviceTopics)
            },
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
        RULES.pop(self._key, None)
        self._end_loop()

    def _end_loop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        if not self._loop.is_running():
            self._loop.close()


def _probe(host: str, port: int) -> int:
    """The port to listen on, checked to be free a moment ago."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise PortTaken(port_taken(host, port, "--mqtt-port", error)) from error
        return int(probe.getsockname()[1])


def port_taken(host: str, port: int, flag: str, error: OSError) -> str:
    """The message for a port that cannot be used."""
    if error.errno == errno.EADDRINUSE:
        return (
            f"port {port} on {host} is taken by another program: choose another with {flag} (0: any free one)"
        )
    return f"cannot listen on {host}:{port} ({error.strerror}): choose another with --host or {flag}"
