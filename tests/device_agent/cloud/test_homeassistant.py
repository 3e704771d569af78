"""Home Assistant gets retained messages with all it needs to show a device; removed entities are cleared."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path
from typing import Any

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion

from tests.device_agent.harness import Broker, FleetEnd, make_artifact, wait_for

CONFIG = """
[homeassistant]
enabled = true
[models.detector]
artifact = "detector-1.edge"
[streams.door]
source = "test:160x120@10"
model = "detector"
[streams.yard]
source = "test:160x120@10"
model = "detector"
"""


class Home:
    """A fresh subscriber, as Home Assistant after a restart: it sees what the broker retained."""

    def __init__(self, port: int) -> None:
        self.seen: dict[str, bytes] = {}
        self.client = mqtt.Client(CallbackAPIVersion.VERSION2, protocol=mqtt.MQTTv311)
        self.client.on_connect = lambda c, *_: c.subscribe("homeassistant/#", 1)
        self.client.on_message = lambda _c, _u, m: self.seen.__setitem__(m.topic, m.payload)
        self.client.connect("127.0.0.1", port)
        self.client.loop_start()

    @property
    def entities(self) -> dict[str, dict[str, Any]]:
        return {topic: json.loads(payload) for topic, payload in list(self.seen.items()) if payload}

    def close(self) -> None:
        self.client.disconnect()
        self.client.loop_stop()


def test_discovery(tmp_path: Path, broker: Broker, fleet: FleetEnd, agent_of: Any) -> None:
    make_artifact(tmp_path, "1")
    agent = agent_of(CONFIG)
    agent.start()
    home = Home(broker.port)
    wait_for(
        lambda: len(home.entities) == 3 + 3 + 2 + 4, "the entities of two streams, a model and the device"
    )
    for topic, body in home.entities.items():
        assert re.fullmatch(r"homeassistant/(sensor|binary_sensor|event|update)/[\w-]+/[\w-]+/config", topic)
        assert body["device"]["identifiers"] == ["edgec-test-dev-1"]
        assert body["origin"]["name"] == "edgec"
        assert body["availability_topic"] == "edgec/v1/test/dev-1/status"
    assert len({body["unique_id"] for body in home.entities.values()}) == len(home.entities)
    seen = home.entities["homeassistant/binary_sensor/edgec-test-dev-1/door-seen/config"]
    assert seen["state_topic"] == "edgec/v1/test/dev-1/events/door"
    home.close()
    assert agent.stop() == 0
    text = agent.config.read_text()
    agent.config.write_text(text[: text.index("[streams.yard]")])
    agent.start()
    late = Home(broker.port)
    wait_for(lambda: len(late.entities) == 9, "only what is still there")
    assert not [topic for topic in late.entities if "yard" in topic]
    late.close()
    assert agent.stop() == 0
    agent.config.write_text(agent.config.read_text().replace("enabled = true", "enabled = false"))
    agent.start()
    started = time.monotonic()
    fleet.health(lambda h: h["uptime_s"] > 0.5 and h["uptime_s"] < time.monotonic() - started + 1, "health")
    off = Home(broker.port)
    wait_for(lambda: not off.entities, "nothing left")
    off.close()
