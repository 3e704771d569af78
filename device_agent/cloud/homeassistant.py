"""Home Assistant discovery: retained messages, according to its MQTT discovery documentation.

Topics are `<prefix>/<component>/<node>/<object>/config`; an empty retained message removes an entity. Templates
read the states from the topics that the agent publishes anyway (status, health and events).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgec.device_agent.config.settings import AgentConfig
from edgec.device_agent.process.statefile import StateFile
from edgec.device_agent.updates.deployments import Update
from edgec.protocol.status import Health, ModelHealth
from edgec.protocol.topics import Topics, discovery_node

_LEAST_OFF_S = 5.0


class Discovery:
    """Tracks what is published; `messages` returns what a session must send."""

    def __init__(self, topics: Topics, version: str, state: Path) -> None:
        self._topics, self._version = topics, version
        self._told: dict[str, bytes] = {}
        self._file = StateFile(state / "homeassistant.json")
        known = self._file.load().data.get("topics", [])
        self._published: set[str] = {one for one in known if isinstance(one, str)}

    def messages(self, config: AgentConfig) -> list[tuple[str, bytes]]:
        """Return topics and payloads to publish retained: all entities, and an empty payload for each that was removed.

        What was once published is never forgotten: a message that was lost with a session is sent by the next.

        Raises:
            StateError: what is about to be published cannot be recorded, so it could not be removed later.
        """
        section = config.homeassistant
        wanted = entities(config, self._topics, self._version, section.prefix) if section.enabled else {}
        gone = self._published - wanted.keys()
        if wanted.keys() - self._published:
            self._file.save({"topics": sorted(self._published | wanted.keys())})
            self._published |= wanted.keys()
        return [(topic, b"") for topic in sorted(gone)] + [
            (topic, json.dumps(body, separators=(",", ":"), ensure_ascii=False).encode())
            for topic, body in wanted.items()
        ]

    def versions(self, config: AgentConfig, health: Health, update: Update | None) -> list[tuple[str, bytes]]:
        """Return topics and payloads of the update entities whose state has changed, to publish retained."""
        if not config.homeassistant.enabled:
            return []
        changed = []
        for model in health.models:
            topic = self._topics.model_update(model.slot)
            payload = json.dumps(_update_state(model, update), separators=(",", ":")).encode()
            if model.version and self._told.get(topic) != payload:
                self._told[topic] = payload
                changed.append((topic, payload))
        return changed

    def forget_versions(self) -> None:
        """Send all states again: the broker may have lost them."""
        self._told.clear()


def _update_state(model: ModelHealth, update: Update | None) -> dict[str, Any]:
    """The state of a slot's update entity, as Home Assistant's MQTT update integration reads it."""
    state = {"installed_version": model.version, "latest_version": model.version, "title": model.name}
    if update is None or update.slot != model.slot:
        return state | {"in_progress": False}
    return state | {"latest_version": update.parsed.version, "in_progress": True}


def entities(config: AgentConfig, topics: Topics, version: str, prefix: str) -> dict[str, dict[str, Any]]:
    """Return every entity's discovery message by topic."""
    node = discovery_node(topics.fleet, topics.device)
    common = {
        "device": {
            "identifiers": [node], "name": topics.device, "manufacturer": "edgec", "model": "edgec agent",
            "sw_version": version,
        },
        "origin": {"name": "edgec", "sw_version": version},
        "availability_topic": topics.status,
        "availability_template": "{{ 'online' if value_json.state == 'online' else 'offline' }}",
    }  # fmt: skip
    found: dict[str, dict[str, Any]] = {}

    def add(component: str, key: str, name: str, **body: Any) -> None:  # noqa: ANN401 - JSON
        key = key.replace(".", "_")
        found[f"{prefix}/{component}/{node}/{key}/config"] = {
            "name": name, "unique_id": f"{node}-{key}", **common, **body
        }  # fmt: skip

    for stream, settings in config.streams.items():
        if not settings.enabled:
            continue
        add(
            "sensor", f"{stream}-fps", f"{stream} rate", state_topic=topics.health, unit_of_measurement="fps",
            value_template=_one_of("streams", "name", stream, "fps"), state_class="measurement",
            entity_category="diagnostic",
        )  # fmt: skip
        if settings.model is None:
            continue
        if config.homeassistant.picture_interval_s and not settings.source.is_sound:
            add("camera", f"{stream}-picture", f"{stream} picture", topic=topics.picture(stream))
        add(
            "binary_sensor", f"{stream}-seen", f"{stream} sees something", state_topic=topics.events(stream),
            value_template="ON", off_delay=round(max(_LEAST_OFF_S, 3 * settings.update_interval_s)),
            device_class="sound" if settings.source.is_sound else "occupancy",
        )  # fmt: skip
        add(
            "event", f"{stream}-event", f"{stream} event", state_topic=topics.events(stream),
            event_types=["new", "update", "end"], value_template=_EVENT,
        )  # fmt: skip
    for slot in config.models:
        add(
            "sensor", f"model-{slot}", f"Model {slot}", state_topic=topics.health,
            value_template=_one_of("models", "slot", slot, "version"), entity_category="diagnostic",
        )  # fmt: skip
        add(
            "update", f"update-{slot}", f"Update of {slot}", state_topic=topics.model_update(slot),
            device_class="firmware", entity_category="diagnostic",
        )  # fmt: skip
    for key, (name, field, extra) in _DEVICE.items():
        template = f"{{{{ value_json.{field} }}}}"
        add(
            "sensor", key, name, state_topic=topics.health, value_template=template,
            entity_category="diagnostic", **extra,
        )  # fmt: skip
    return found


def _one_of(table: str, key: str, value: str, field: str) -> str:
    """Return a template for a field of the list entry whose key has a value (names need no quoting: see Name)."""
    picked = f"value_json.{table} | selectattr('{key}', 'eq', '{value}') | map(attribute='{field}') | first"
    return f"{{{{ {picked} | default('') }}}}"


_EVENT = (
    "{{ {'event_type': value_json.data.phase, 'label': value_json.data.label, 'score': value_json.data.score, "
    "'track': value_json.data.track_id, 'rule': value_json.data.rule} | tojson }}"
)
_DEVICE: Mapping[str, tuple[str, str, dict[str, str]]] = {
    "cpu": ("Agent CPU", "cpu_percent", {"unit_of_measurement": "%", "state_class": "measurement"}),
    "memory": (
        "Agent memory", "memory_bytes",
        {"unit_of_measurement": "B", "device_class": "data_size", "state_class": "measurement"},
    ),
    "temperature": (
        "Temperature", "temperature_c | default('')",
        {"unit_of_measurement": "°C", "device_class": "temperature", "state_class": "measurement"},
    ),
    "waiting": ("Messages that wait", "outbox.depth", {"state_class": "measurement"}),
}  # fmt: skip
