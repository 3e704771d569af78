"""A session with the broker: what is requested when it begins, and where its messages go."""

from __future__ import annotations

import logging
from collections.abc import Callable

from edgec.device_agent.cloud.homeassistant import Discovery
from edgec.device_agent.cloud.jobs import JobDesk
from edgec.device_agent.cloud.mqtt_client import Publisher
from edgec.device_agent.cloud.outbox import Outbox
from edgec.device_agent.cloud.shadow import ShadowDesk
from edgec.device_agent.errors import StateError
from edgec.protocol.topics import Kind, parse

log = logging.getLogger("agent")


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
    ) -> None:
        self._client, self._outbox, self._jobs, self._shadow = client, outbox, jobs, shadow
        self._discovery, self._on_connected, self._degrade = discovery, on_connected, degrade

    def message(self, topic: str, payload: bytes) -> None:
        """Hand a message to the part that it is for."""
        parsed = parse(topic)
        if parsed.kind in (Kind.JOBS_NOTIFY, Kind.JOB_UPDATE_ACCEPTED, Kind.JOB_UPDATE_REJECTED):
            self._jobs.receive(parsed, payload)
        else:
            self._shadow.receive(parsed, payload)

    def changed(self, connected: bool) -> None:
        """A session has begun or ended."""
        if not connected:
            log.warning("the broker is gone; %s messages wait", self._outbox.state().depth)
            return
        for topic, payload in (self._jobs.request(), self._shadow.request()):
            self._client.publish_now(topic, payload)
        self._shadow.report()
        self.discover()
        self._on_connected()

    def discover(self) -> None:
        """Announce entities to Home Assistant, and withdraw those that are gone."""
        try:
            for topic, payload in self._discovery.messages(self._shadow.config):
                self._client.publish_now(topic, payload, retain=True)
        except StateError as error:
            self._degrade("homeassistant", str(error))
