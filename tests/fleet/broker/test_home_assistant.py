"""Home Assistant beside the fleet: what a user of the broker with its rights receives, and may not do."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import paho.mqtt.client as mqtt
import pytest
from paho.mqtt.enums import CallbackAPIVersion

from edgec.device_agent.cloud.identity import enroll
from tests.device_agent.harness import AgentProcess, make_artifact
from tests.fleet.servers import FleetServer, wait_for

pytestmark = pytest.mark.backends("embedded", "external")

CONFIG = """
[homeassistant]
enabled = true
picture_interval_s = 1
[models.detector]
artifact = "detector-1.edge"
[streams.door]
source = "test:160x120@10"
model = "detector"
"""
COMMON = {
    "name", "unique_id", "device", "origin", "availability_topic", "availability_template", "entity_category",
    "device_class",
}  # fmt: skip
# The keys of Home Assistant's MQTT integrations that we use, and which of them each requires.
SCHEMA: dict[str, tuple[set[str], set[str]]] = {
    "sensor": ({"state_topic"}, {"value_template", "unit_of_measurement", "state_class"}),
    "binary_sensor": ({"state_topic"}, {"value_template", "off_delay"}),
    "event": ({"state_topic", "event_types"}, {"value_template"}),
    "camera": ({"topic"}, set()),
    "update": ({"state_topic"}, set()),
}


class Home:
    """A client that does what Home Assistant does: it subscribes to discovery, and then to what the entities name."""

    def __init__(self, server: FleetServer, user: str, password: str) -> None:
        self.seen: dict[str, bytes] = {}
        self.refused: list[str] = []
        self.client = mqtt.Client(CallbackAPIVersion.VERSION2, client_id=user, protocol=mqtt.MQTTv311)
        self.client.username_pw_set(user, password)
        self.subscribed = threading.Event()
        self.connected: list[bool] = []
        self.client.on_connect = self._connected
        self.client.on_subscribe = lambda *_: self.subscribed.set()
        self.client.on_message = self._take
        self.client.connect("127.0.0.1", server.info["mqtt_port"])
        self.client.loop_start()

    def _connected(self, client: Any, _user: Any, _flags: Any, reason: Any, _properties: Any) -> None:
        self.connected.append(not reason.is_failure)
        client.subscribe("homeassistant/#", 1)

    def _take(self, client: Any, _user: Any, message: mqtt.MQTTMessage) -> None:
        self.seen[message.topic] = message.payload
        if message.topic.endswith("/config") and message.payload:
            body = json.loads(message.payload)
            for key in ("state_topic", "availability_topic", "topic"):
                if key in body:
                    client.subscribe(body[key], 1)

    @property
    def entities(self) -> dict[str, dict[str, Any]]:
        """Discovery messages by component and object."""
        found = {}
        for topic, payload in list(self.seen.items()):
            if match := re.fullmatch(r"homeassistant/([a-z_]+)/([\w-]+)/([\w-]+)/config", topic):
                found[f"{match[1]}/{match[3]}"] = json.loads(payload)
        return found

    def hears(self, topic: str) -> bytes:
        return bytes(wait_for(lambda: self.seen.get(topic), 60, topic))

    def close(self) -> None:
        self.client.disconnect()
        self.client.loop_stop()


@pytest.fixture
def home(server: FleetServer) -> Iterator[Home]:
    with server.client() as client:
        made = client.post("/mqtt-users", {"name": "home", "home_assistant": True})
    running = Home(server, "home", made["password"])
    yield running
    running.close()
    with server.client() as client:
        client.delete("/mqtt-users/home")


def test_home_assistant_sees_a_device_as_it_is(server: FleetServer, home: Home, tmp_path: Path) -> None:
    make_artifact(tmp_path, "1")
    with server.client() as client:
        token = client.post("/enroll-tokens", {})["token"]
    enroll(server.url, token, tmp_path / "state", device="porch.cam_1", labels={})
    agent = AgentProcess(tmp_path, CONFIG)
    text = agent.config.read_text()
    agent.config.write_text(text.replace('fleet = "test"\ndevice = "dev-1"\n', ""))
    agent.start()
    try:
        wait_for(lambda: len(home.entities) == 3 + 1 + 2 + 4, 60, "all entities")
        for key, body in home.entities.items():
            component = key.partition("/")[0]
            needed, optional = SCHEMA[component]
            assert needed <= set(body), key
            assert set(body) <= COMMON | needed | optional, key
            assert body["device"]["identifiers"]
            assert body["origin"]["name"] == "edgec"
        base = f"edgec/v1/{server.info['fleet']}/porch.cam_1"
        assert json.loads(home.hears(f"{base}/status"))["state"] == "online"
        health = json.loads(home.hears(f"{base}/health"))
        assert [one["name"] for one in health["streams"]] == ["door"]
        picture = home.hears(home.entities["camera/door-picture"]["topic"])
        assert picture[:2] == b"\xff\xd8"
        assert picture[-2:] == b"\xff\xd9"
        update = home.entities["update/update-detector"]
        assert json.loads(home.hears(update["state_topic"])) == {
            "installed_version": "1", "latest_version": "1", "title": "detector", "in_progress": False,
        }  # fmt: skip
        event = json.loads(home.hears(home.entities["event/door-event"]["state_topic"]))
        assert event["data"]["phase"] in home.entities["event/door-event"]["event_types"]
        # The fleet hears the same once, and none of what is for others.
        with server.client() as client:
            device = client.get("/devices/porch.cam_1")
            assert device["state"] == "online"
            assert "edgec_ingest_rejected_total{" not in client.send("GET", "/metrics").text
    finally:
        assert agent.stop() == 0
    wait_for(
        lambda: json.loads(home.seen[f"{base}/status"])["state"] != "online", 60, "that the device stopped"
    )


def test_a_user_may_do_what_its_rights_say_and_no_more(server: FleetServer, home: Home) -> None:
    fleet = server.info["fleet"]
    with server.client() as client:
        made = client.post(
            "/mqtt-users", {"name": "display", "reads": [f"edgec/v1/{fleet}/+/status"], "writes": ["shop/#"]}
        )
        for body in (
            {"name": "x"},
            {"name": "x", "reads": ["a/b#"]},
            {"name": "x", "writes": ["a\nuser root"]},
        ):
            assert client.http.post("/api/v1/mqtt-users", json=body).status_code == 422
        taken = client.http.post("/api/v1/mqtt-users", json={"name": "home", "reads": ["a"]})
        assert taken.status_code == 409
        secret = client.post("/enroll-tokens", {})["token"]
        device = client.http.post("/api/v1/enroll", json={"token": secret, "device": "display"})
        assert device.status_code == 409, "no device gets a user's name, and with it its access"
    display = Home(server, "display", made["password"])
    wait_for(lambda: display.connected == [True], 60, "the display")
    wait_for(display.subscribed.is_set, 60, "the answer to its subscription")
    heard: list[str] = []
    display.client.message_callback_add("#", lambda _c, _u, message: heard.append(message.topic))
    for topic in ("#", f"edgec/v1/{fleet}/+/health", f"edgec/v1/{fleet}/+/status", "homeassistant/#"):
        display.client.subscribe(topic, 1)
    home.client.publish("homeassistant/sensor/x/y/config", b"{}", 1, retain=True).wait_for_publish(60)
    home.client.publish(f"edgec/v1/{fleet}/cam-9/jobs/notify", b"{}", 1).wait_for_publish(60)
    display.client.publish(f"edgec/v1/{fleet}/cam-9/status", b"{}", 1).wait_for_publish(60)
    home.client.publish("homeassistant/status", b"online", 1).wait_for_publish(60)
    assert home.hears("homeassistant/status") == b"online"
    assert "homeassistant/sensor/x/y/config" not in home.seen, "Home Assistant may not announce devices"
    assert f"edgec/v1/{fleet}/cam-9/status" not in home.seen
    assert {topic.rpartition("/")[2] for topic in heard} <= {"status"}
    with server.client() as client:
        client.delete("/mqtt-users/display")
    wait_for(lambda: display.connected[-1] is False, 60, "the refusal after the user is gone")
    display.close()


def test_one_device_cannot_speak_for_another(server: FleetServer, home: Home) -> None:
    """`a.b` and `a_b` have nodes of their own, and neither can write to the other's."""
    from edgec.protocol.topics import discovery_node

    devices = {name: server.enroll(name) for name in ("ha-1", "ha.1", "ha_1")}
    fleet = server.info["fleet"]
    for name, access in devices.items():
        user = access["mqtt"]
        client = mqtt.Client(
            CallbackAPIVersion.VERSION2, client_id=f"edgec-{fleet}-{name}", protocol=mqtt.MQTTv311
        )
        client.username_pw_set(user["username"], user["password"])
        client.connect("127.0.0.1", server.info["mqtt_port"])
        client.loop_start()
        for other in (*(one for one in devices if one != name), name):
            topic = (
                f"homeassistant/sensor/{discovery_node(fleet, other)}/by-{name.replace('.', '-dot-')}/config"
            )
            client.publish(topic, b'{"by": "' + name.encode() + b'"}', 1, retain=True).wait_for_publish(60)
        client.disconnect()
        client.loop_stop()
    for name in devices:
        topic = f"homeassistant/sensor/{discovery_node(fleet, name)}/by-{name.replace('.', '-dot-')}/config"
        home.hears(topic)
    announced = [topic for topic in home.seen if "/by-ha" in topic]
    assert len(announced) == 3, announced
