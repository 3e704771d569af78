"""The device's named shadow `config`: streams and models that the fleet desires, merged over the file.

`desired` contains `streams` and `models` in the form of the configuration file. An absent key keeps the file's value,
and `enabled = false` stops a stream of the file. `reported` repeats what was applied, which clears the delta, and has
`errors` for what was refused; a key that is removed from `desired` is removed from it, too.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

from edgec.device_agent.cloud.outbox import CONTROL, Outbox
from edgec.device_agent.config.settings import AgentConfig, check_config
from edgec.device_agent.errors import ConfigError, StateError
from edgec.device_agent.process.statefile import StateFile
from edgec.protocol.codec import decode, encode
from edgec.protocol.errors import ProtocolError
from edgec.protocol.shadow import (
    ShadowDelta,
    ShadowDocument,
    ShadowState,
    ShadowUpdate,
    merge,
    removals,
    with_removals,
)
from edgec.protocol.topics import Kind, ParsedTopic, Topics

log = logging.getLogger("shadow")

NAME = "config"
_SECTIONS = ("streams", "models")


class ShadowDesk:
    """Maintains the effective configuration: the file's, with the desired state merged over it."""

    def __init__(
        self,
        topics: Topics,
        table: dict[str, Any],
        path: Path,
        state: StateFile,
        outbox: Outbox,
        apply: Callable[[AgentConfig, AgentConfig], None],
    ) -> None:
        self._topics, self._table, self._path = topics, table, path
        self._state, self._outbox, self._apply = state, outbox, apply
        loaded = state.load()
        if loaded.problem:
            log.warning("the last configuration from the fleet: %s", loaded.problem)
        self._desired: dict[str, Any] = loaded.data.get("desired", {})
        self._version = int(loaded.data.get("version", 0))
        self._errors: dict[str, str] = {}
        self._reported: dict[str, Any] = dict(self._desired)
        """What the fleet has recorded as reported: as it last said, or as we have told it since."""
        self.config = self._effective()
        """The present configuration."""

    def _effective(self) -> AgentConfig:
        """Return the configuration to start with; a desired state that is no longer valid is ignored."""
        try:
            return self._merged(self._desired)
        except ConfigError as error:
            log.error("the fleet's configuration is not valid with the file's: %s", error)
            self._errors = {"config": str(error)}
            return check_config(self._table, self._path)

    def request(self) -> tuple[str, bytes]:
        """Return the message that requests the shadow from the fleet."""
        return self._topics.of(Kind.SHADOW_GET, NAME), b"{}"

    def receive(self, topic: ParsedTopic, payload: bytes) -> None:
        """Handle a message of the shadow `config`."""
        if topic.name != NAME:
            return
        try:
            if topic.kind is Kind.SHADOW_GET_ACCEPTED:
                document = decode(ShadowDocument, payload)
                self._reported = dict(document.state.reported or {})
                self._set_desired(dict(document.state.desired or {}), document.version)
            elif topic.kind is Kind.SHADOW_DELTA:
                delta = decode(ShadowDelta, payload)
                if delta.version > self._version:
                    wanted = merge(self._desired, delta.state)
                    self._set_desired(wanted if isinstance(wanted, dict) else {}, delta.version)
        except ProtocolError as error:
            log.warning("malformed message of the shadow: %s", error)

    def _set_desired(self, desired: dict[str, Any], version: int) -> None:
        self._errors = {key: "only streams and models can be set" for key in desired if key not in _SECTIONS}
        wanted = {key: desired[key] for key in _SECTIONS if isinstance(desired.get(key), dict)}
        self._version = max(self._version, version)
        if wanted != self._desired:
            try:
                config = self._merged(wanted)
            except ConfigError as error:
                log.warning("the fleet's configuration is refused: %s", error)
                self._errors["config"] = str(error)
                self.report()
                return
            self._desired = wanted
            try:
                self._state.save({"desired": wanted, "version": self._version})
            except StateError as error:
                log.error("%s; the fleet's configuration lasts until the next start", error)
            before, self.config = self.config, config
            self._apply(before, config)
        self.report()

    def _merged(self, desired: dict[str, Any]) -> AgentConfig:
        table = merge(self._table, {key: desired[key] for key in _SECTIONS if key in desired})
        assert isinstance(table, dict)
        return check_config(table, self._path)

    def report(self) -> None:
        """Report what was applied: all of it, and `null` for what the fleet still has of an earlier state."""
        reported: dict[str, Any] = self._desired | ({"errors": self._errors} if self._errors else {})
        patch = with_removals(reported, removals(self._reported, reported))
        self._reported = reported
        payload = encode(ShadowUpdate(state=ShadowState(reported=patch)))
        topic = self._topics.of(Kind.SHADOW_UPDATE, NAME)
        self._outbox.put(
            topic, payload, f"shadow-{self._version}-{hashlib.sha256(payload).hexdigest()[:12]}", lane=CONTROL
        )
