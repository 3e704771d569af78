"""The server's own connection to the broker: a persistent session, acknowledging by hand.

paho rather than an asyncio client: only paho confirms a message when the application says so, which is what
makes "acknowledged" mean "committed".
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote, urlsplit

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion

from edgec.fleet.errors import FleetError
from edgec.fleet.ingest import Inbound
from edgec.protocol.topics import fleet_subscriptions

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class BrokerAddress:
    """Where the broker is and who we are there."""

    host: str
    port: int
    username: str
    password: str
    tls: bool = False

    @staticmethod
    def from_url(url: str) -> BrokerAddress:
        """Read ``mqtt[s]://user:password@host:port``."""
        parts = urlsplit(url)
        tls = parts.scheme == "mqtts"
        return BrokerAddress(
            parts.hostname or "localhost",
            parts.port or (8883 if tls else 1883),
            unquote(parts.username or ""),
            unquote(parts.password or ""),
            tls,
        )


class MqttLink:
    """Receives what devices say, sends what they should hear; reconnects by itself."""

    def __init__(
        self,
        address: BrokerAddress,
        fleet: str,
        client_id: str,
        sink: Callable[[Inbound], None],
        shared: str | None,
    ) -> None:
        self._address = address
        prefix = f"$share/{shared}/" if shared else ""
        self._filters = [(prefix + name, 1) for name in fleet_subscriptions(fleet)]
        self._sink = sink
        self._subscribed = threading.Event()
        self._on_connect: Callable[[], None] | None = None
        self._refusal = ""
        client = mqtt.Client(
            CallbackAPIVersion.VERSION2,
            client_id,
            clean_session=False,
            manual_ack=True,
            reconnect_on_failure=True,
        )
        client.username_pw_set(address.username, address.password)
        if address.tls:
            client.tls_set()
        client.max_inflight_messages_set(0)
        client.max_queued_messages_set(0)
        client.reconnect_delay_set(1, 30)
        client.on_connect = self._connected
        client.on_subscribe = self._subscribe_done
        client.on_disconnect = self._disconnected
        client.on_message = self._message
        self._client = client

    def start(self, on_connect: Callable[[], None], timeout_s: float = 15.0) -> None:
        """Connect and subscribe; ``on_connect`` is called then and after each reconnect.

        Raises:
            FleetError: no broker, or it refuses us.
        """
        self._on_connect = on_connect
        where = f"{self._address.host}:{self._address.port}"
        try:
            self._client.connect(self._address.host, self._address.port, keepalive=30)
        except OSError as error:
            raise FleetError(f"no MQTT broker answers at {where} ({error}); check --mqtt") from error
        self._client.loop_start()
        if not self._subscribed.wait(timeout_s):
            self.stop()
            why = self._refusal or "it does not confirm our subscription"
            raise FleetError(f"the MQTT broker at {where} cannot be used: {why}")

    @property
    def connected(self) -> bool:
        """Whether there is a subscribed connection at this moment."""
        return self._subscribed.is_set()

    def stop(self) -> None:
        """Say goodbye; what is not acknowledged stays with the broker."""
        self._client.disconnect()
        self._client.loop_stop()

    def publish(self, topic: str, payload: bytes, *, retain: bool = False) -> None:
        """Send with QoS 1; during an outage it waits in memory until the connection is back."""
        self._client.publish(topic, payload, qos=1, retain=retain)

    def _connected(self, client: mqtt.Client, _data: Any, _flags: Any, reason: Any, _props: Any) -> None:  # noqa: ANN401
        if reason.is_failure:
            self._refusal = str(reason)
            log.warning("the broker refuses us: %s", reason)
            return
        client.subscribe(self._filters)

    def _subscribe_done(self, _client: Any, _data: Any, _mid: int, reasons: list[Any], _props: Any) -> None:  # noqa: ANN401
        refused = [reason for reason in reasons if reason.is_failure]
        if refused:
            self._refusal = f"subscription refused: {refused[0]}"
            log.error(self._refusal)
            return
        self._subscribed.set()
        if self._on_connect:
            self._on_connect()

    def _disconnected(self, _client: Any, _data: Any, _flags: Any, reason: Any, _props: Any) -> None:  # noqa: ANN401
        self._subscribed.clear()
        if reason.is_failure:
            log.warning("lost the broker: %s; connecting again", reason)

    def _message(self, client: mqtt.Client, _data: Any, message: mqtt.MQTTMessage) -> None:  # noqa: ANN401
        mid, qos = message.mid, message.qos

        def acknowledge() -> None:
            client.ack(mid, qos)

        self._sink(Inbound(message.topic, bytes(message.payload), acknowledge))
