"""A session with the broker: what is requested when it begins, and where its messages go."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from edgec.device_agent.cloud.homeassistant import Discovery
from edgec.device_agent.cloud.jobs import JobDesk
from edgec.device_agent.cloud.mqtt_client import Publisher
from edgec.device_agent.cloud.outbox import Outbox
from edgec.device_agent.cloud.shadow import ShadowDesk
from edgec.device_agent.errors import StateError
from edgec.device_agent.updates.deployments import Update
from edgec.protocol.codec import decode
from edgec.protocol.errors import ProtocolError
from edgec.protocol.status import Health, RivalNotice
from edgec.protocol.topics import Kind, parse

log = logging.getLogger("agent")

RIVAL = "identity"
"""The part under which a second process of this identity is reported."""
_STAND_BACK_S = 300.0
_MENTIONED_S = 3 * _STAND_BACK_S


class Session:
    """Routes messages; call it from the loop's thread.

    Args:
        client: publishes.
        outbox: for the log alone: what waits while there is no session.
        jobs: receives messages on jobs.
        shadow: receives messages on the configuration.
        discovery: the entities announced to Home Assistant.
        on_connected: called when a session has begun.
        degrade: records what is wrong, and why.
        clear: says that a part is well again.
        boot_id: of this process.
    """

    def __init__(
        self,
        client: Publisher,
        outbox: Outbox,
        jobs: JobDesk,
        shadow: ShadowDesk,
        discovery: Discovery,
        on_connected: Callable[[], None],
        degrade: Callable[[str, str], None],
        clear: Callable[[str], None],
        boot_id: str,
    ) -> None:
        self._clear, self._boot_id = clear, boot_id
        self._rival_until = 0.0
        self._client, self._outbox, self._jobs, self._shadow = client, outbox, jobs, shadow
        self._discovery, self._on_connected, self._degrade = discovery, on_connected, degrade

    def message(self, topic: str, payload: bytes) -> None:
        """Hand a message to the part that it is for."""
        parsed = parse(topic)
        if parsed.kind is Kind.STATUS_RIVAL:
            self._rival(payload)
        elif parsed.kind in (Kind.JOBS_NOTIFY, Kind.JOB_UPDATE_ACCEPTED, Kind.JOB_UPDATE_REJECTED):
            self._jobs.receive(parsed, payload)
        else:
            self._shadow.receive(parsed, payload)

    def tick(self) -> None:
        """Forget a second process of this identity that has not been mentioned for long; called every second."""
        if self._client.connected and 0 < self._rival_until < time.monotonic():
            self._rival_until = 0.0
            self._clear(RIVAL)

    def _rival(self, payload: bytes) -> None:
        try:
            notice = decode(RivalNotice, payload)
        except ProtocolError as error:
            log.warning("a notice of the fleet cannot be read: %s", error)
            return
        self._rival_until = time.monotonic() + _MENTIONED_S
        if notice.refused == self._boot_id:
            self._degrade(
                RIVAL,
                f"another device uses this identity (its boot {notice.holder}) and keeps it, so nothing is sent: "
                "if this is a copy of its card, enrol it under a name of its own (edgec agent enroll)",
            )
            self._client.stand_back(_STAND_BACK_S)
        elif notice.holder == self._boot_id:
            self._degrade(
                RIVAL,
                f"a second device uses this identity (its boot {notice.refused}) and is refused: "
                "find it, and enrol it under a name of its own",
            )

    def changed(self, connected: bool) -> None:
        """A session has begun or ended."""
        if not connected:
            log.warning("the broker is gone; %s messages wait", self._outbox.state().depth)
            return
        for topic, payload in (self._jobs.request(), self._shadow.request()):
            self._client.publish_now(topic, payload)
        self._shadow.report()
        self._discovery.forget_versions()
        self.discover()
        self._on_connected()

    def versions(self, health: Health, update: Update | None) -> None:
        """Tell Home Assistant which version each slot runs, and which one it is about to run, when that has changed."""
        if self._client.connected:
            for topic, payload in self._discovery.versions(self._shadow.config, health, update):
                self._client.publish_now(topic, payload, retain=True)

    def discover(self) -> None:
        """Announce entities to Home Assistant, and withdraw those that are gone."""
        try:
            for topic, payload in self._discovery.messages(self._shadow.config):
                self._client.publish_now(topic, payload, retain=True)
        except StateError as error:
            self._degrade("homeassistant", str(error))
