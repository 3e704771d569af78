"""From a device's publish to the database: who may say what, repeats, crashes, nonsense."""

from __future__ import annotations

import json
import threading
import time
import uuid
from collections.abc import Callable
from typing import Any

import httpx
import paho.mqtt.client as mqtt
import pytest
from paho.mqtt.enums import CallbackAPIVersion

from edgec.protocol.topics import Topics
from tests.fleet.servers import FleetServer, wait_for
from tests.fleet.sim_device import SimDevice

pytestmark = pytest.mark.backends("embedded", "external")

Make = Callable[..., SimDevice]


def detections(server: FleetServer, name: str, expected: int = 0, **filters: Any) -> list[dict[str, Any]]:
    """The rows there are. The embedded broker confirms what is committed; Mosquitto what it will deliver, so there
    `expected` rows are waited for."""

    def rows() -> list[dict[str, Any]]:
        with server.client() as client:
            return list(client.pages(f"/devices/{name}/detections", limit=1000, **filters))

    if server.external and expected:
        wait_for(lambda: len(rows()) >= expected, 30, f"{expected} rows of {name}")
    return rows()


def connect(access: dict[str, Any], **changes: Any) -> tuple[mqtt.Client, str]:
    """Try to connect; the client and why it was refused (empty if not)."""
    password = changes.get("password", access["mqtt"]["password"])
    username = changes.get("username", access["mqtt"]["username"])
    identity = changes.get("client_id", f"edgec-{access['fleet']}-{access['device']}")
    client = mqtt.Client(CallbackAPIVersion.VERSION2, identity, reconnect_on_failure=False)
    client.username_pw_set(username, password)
    if will := changes.get("will"):
        client.will_set(will, changes.get("will_payload", b"{}"), 1, True)
    answer: list[Any] = []
    client.on_connect = lambda _c, _u, _f, reason, _p: answer.append(reason)
    client.connect(access["mqtt"]["host"], access["mqtt"]["port"])
    client.loop_start()
    wait_for(lambda: answer, 15, "an answer to connect")
    return client, str(answer[0]) if answer[0].is_failure else ""


def test_presence_health_and_events_arrive(server: FleetServer, device: Make) -> None:
    camera = device("in-1")
    for label in ("person", "dog", "person"):
        camera.send_event(label).wait_for_publish(60)
    found = detections(server, "in-1", 3)
    assert [item["label"] for item in found] == ["person", "dog", "person"], "acknowledged means committed"
    assert len(detections(server, "in-1", label="dog")) == 1
    with server.client() as client:
        shown = wait_for(lambda: (d := client.get("/devices/in-1"))["health"] and d)
        assert (shown["state"], shown["health"]["streams"][0]["name"]) == ("online", "cam")
        assert client.get("/devices/in-1/telemetry", stream="cam")["items"][0]["latency_ms"] == 8.0
    camera.stop()
    with server.client() as client:
        wait_for(lambda: client.get("/devices/in-1")["state"] == "stopped")


def test_a_lost_connection_shows_as_offline_and_an_old_will_does_not(
    server: FleetServer, device: Make
) -> None:
    camera = device("in-2")
    camera.mqtt.loop_stop()
    camera.mqtt._sock_close()
    with server.client() as client:
        wait_for(lambda: client.get("/devices/in-2")["state"] == "offline", 30)
        late = camera._status("offline")  # type: ignore[arg-type]
        camera.seq = 2
        camera.connected.clear()
        camera.mqtt.reconnect()
        camera.mqtt.loop_start()
        wait_for(lambda: client.get("/devices/in-2")["state"] == "online")
        camera.mqtt.publish(camera.topics.status, late, 1).wait_for_publish(60)
        camera.send_event().wait_for_publish(60)
        wait_for(lambda: detections(server, "in-2"))
        assert client.get("/devices/in-2")["state"] == "online"


def test_repeats_count_once(server: FleetServer, device: Make) -> None:
    camera = device("in-3")
    topic, payload = camera.event(event_id="the-same")
    for _ in range(5):
        camera.mqtt.publish(topic, payload, 1).wait_for_publish(60)
    camera.send_event("last").wait_for_publish(60)
    assert len(detections(server, "in-3", 2)) == 2


def test_only_the_right_credentials_connect(server: FleetServer) -> None:
    one, two = server.enroll("in-4a"), server.enroll("in-4b")
    cases = {
        "wrong password": {"password": "mqtt_wrong"},
        "another's password": {"password": two["mqtt"]["password"]},
        "nobody": {"username": "nobody"},
        "the server's name": {"username": "edgec-fleet" if server.external else "edgec:fleet"},
    }
    if not server.external:  # Mosquitto lets the connection be and does not publish the will: see below.
        cases["a will for another"] = {"will": Topics(two["fleet"], "in-4b").status}
    for what, changes in cases.items():
        client, refused = connect(one, **changes)
        client.loop_stop()
        assert refused, what
    client, refused = connect(one)
    assert refused == ""
    client.disconnect()
    client.loop_stop()


def test_a_will_for_another_is_not_heard(server: FleetServer, device: Make) -> None:
    victim, liar = device("in-4e"), server.enroll("in-4f")
    client, _refused = connect(liar, will=victim.topics.status, will_payload=victim._status("offline"))  # type: ignore[arg-type]
    client.loop_stop()
    client._sock_close()
    victim.send_event("after").wait_for_publish(60)
    detections(server, "in-4e", 1)
    with server.client() as client_:
        assert client_.get("/devices/in-4e")["state"] == "online"


def test_a_client_id_of_another_pushes_nobody_out(server: FleetServer, device: Make) -> None:
    """The embedded broker refuses it; Mosquitto gives every device its own whatever it says."""
    victim, liar = device("in-4c"), server.enroll("in-4d")
    lost = threading.Event()
    victim.mqtt.on_disconnect = lambda *_: lost.set()
    client, refused = connect(liar, client_id=f"edgec-{liar['fleet']}-in-4c")
    client.loop_stop()
    assert bool(refused) is not server.external
    victim.send_event("still here").wait_for_publish(60)
    assert not lost.is_set()
    assert detections(server, "in-4c", 1)


def test_a_device_cannot_speak_or_listen_for_another(server: FleetServer, device: Make) -> None:
    liar, victim = device("in-5a"), device("in-5b")
    topic, payload = victim.event("planted")
    liar.mqtt.publish(topic, payload, 1).wait_for_publish(60)
    liar.mqtt.publish(victim.topics.jobs_notify, b'{"executions":[],"timestamp":666}', 1).wait_for_publish(60)
    for name in (
        "#",
        f"edgec/v1/{liar.topics.fleet}/+/jobs/notify",
        victim.topics.jobs_notify,
        "edgec/#",
        "$SYS/#",
    ):
        answers: list[Any] = []
        liar.mqtt.on_subscribe = lambda _c, _u, _m, reasons, _p, answers=answers: answers.extend(reasons)
        liar.mqtt.subscribe(name, 1)
        wait_for(lambda answers=answers: answers, 10, name)
        # Mosquitto takes any subscription and delivers what is the subscriber's own; see below.
        assert answers[0].is_failure or server.external, name
    liar.send_event("mine").wait_for_publish(60)
    victim.send_event("own").wait_for_publish(60)
    assert [item["label"] for item in detections(server, "in-5b", 1)] == ["own"]
    with server.client() as client:
        client.post("/devices/in-5b/jobs", {"document": {"operation": "report-health"}})
        wait_for(lambda: [n for n, _p in victim.received if n == victim.topics.jobs_notify])
    assert not [name for name, _payload in liar.received if not name.startswith(liar.topics.base + "/")]
    # The server's own list of jobs, empty as well, reaches the victim; the planted one must not.
    assert not [name for name, payload in victim.received if b'"timestamp":666' in payload.replace(b" ", b"")]


def test_nonsense_is_left_out_and_the_rest_goes_on(server: FleetServer, device: Make) -> None:
    camera = device("in-6")
    huge = b'{"a":"' + b"x" * 400_000 + b'"}'
    for payload in (
        b"",
        b"{",
        b"null",
        b"[1]",
        b"\xff\xfe",
        b'{"specversion":"9"}',
        huge,
        b'{"id":' + b"[" * 5000,
    ):
        camera.mqtt.publish(camera.topics.events("cam"), payload, 1).wait_for_publish(60)
    camera.mqtt.publish(camera.topics.health, b'{"fps":NaN}', 1).wait_for_publish(60)
    camera.mqtt.publish(
        camera.topics.job_update("no-such-job"), b'{"state":"SUCCEEDED"}', 1
    ).wait_for_publish(60)
    future, late = json.loads(camera.event("future")[1]), json.loads(camera.event("late")[1])
    future["time"], late["time"] = "2099-01-01T00:00:00Z", "2026-01-01T00:00:00Z"
    for item in (future, late):
        camera.mqtt.publish(camera.topics.events("cam"), json.dumps(item).encode(), 1).wait_for_publish(60)
    found = {item["label"]: item["at"] for item in detections(server, "in-6", 2)}
    assert set(found) == {"future", "late"}
    assert abs(found["future"] - time.time()) < 120, "a clock that is ahead does not put rows in the future"
    assert found["late"] < 1.7672e9 + 86400, "what waited on the device keeps its time"
    rejected = wait_for(lambda: [n for n, _p in camera.received if n.endswith("no-such-job/update/rejected")])
    assert rejected
    metrics = httpx.get(f"{server.url}/metrics").text
    assert 'edgec_ingest_rejected_total{reason="event"}' in metrics


def test_a_revoked_device_is_out_at_once(server: FleetServer, device: Make) -> None:
    camera = device("in-7")
    lost = threading.Event()
    camera.mqtt.on_disconnect = lambda *_: lost.set()
    camera.mqtt._reconnect_on_failure = False
    token = camera.access["registry"]["token"]
    assert httpx.get(f"{server.url}/v2/", headers={"Authorization": f"Bearer {token}"}).status_code == 200
    with server.client() as client:
        client.post("/devices/in-7/revoke")
    assert lost.wait(60)
    assert httpx.get(f"{server.url}/v2/", headers={"Authorization": f"Bearer {token}"}).status_code == 401
    again, refused = connect(camera.access)
    again.loop_stop()
    assert refused


def test_pending_devices_wait_until_somebody_accepts_them(server: FleetServer) -> None:
    with server.client() as client:
        secret = client.post("/enroll-tokens", {"uses": 1, "auto_accept": False})["token"]
        body = {"token": secret, "device": "in-8", "target": "rpi5"}
        access = httpx.post(f"{server.url}/api/v1/enroll", json=body).json()
        early, refused = connect(access)
        early.loop_stop()
        assert refused
        assert client.get("/devices", state="pending")["items"][0]["name"] == "in-8"
        client.post("/devices/in-8/accept")
        camera = SimDevice(access).start()
        wait_for(lambda: client.get("/devices/in-8")["state"] == "online")
        camera.stop()
        again = httpx.post(f"{server.url}/api/v1/enroll", json=body | {"device": "in-8b"})
        assert (again.status_code, again.json()["title"]) == (403, "Token refused")


def test_shadows_settle_on_what_is_desired(server: FleetServer, device: Make) -> None:
    camera = device("in-9")
    with server.client() as client:
        client.send(
            "PATCH", "/api/v1/devices/in-9/shadows/config", json={"desired": {"fps": 5, "cam": {"on": True}}}
        )
        delta = wait_for(lambda: [p for n, p in camera.received if n.endswith("update/delta")])
        assert json.loads(delta[-1])["state"] == {"fps": 5, "cam": {"on": True}}
        report = {"state": {"reported": {"fps": 5, "cam": {"on": True}}, "desired": {"fps": 99}}}
        topic = f"{camera.topics.base}/shadow/name/config/update"
        camera.mqtt.publish(topic, json.dumps(report).encode(), 1).wait_for_publish(60)
        # A broker apart from the server confirms a message before the server has read it.
        shadow = wait_for(
            lambda: (found := client.get("/devices/in-9/shadows")["items"][0])["reported"] and found
        )
        assert shadow["reported"] == {"fps": 5, "cam": {"on": True}}
        assert shadow["desired"] == {"fps": 5, "cam": {"on": True}}, "a device does not set its own desires"
        told = len(delta)
        patch = {"desired": {"fps": None, "cam": {"on": None, "zoom": 2}}}
        client.send("PATCH", "/api/v1/devices/in-9/shadows/config", json=patch)
        found = wait_for(lambda: [p for n, p in camera.received if n.endswith("update/delta")][told:])
        assert json.loads(found[-1])["state"] == {"fps": None, "cam": {"on": None, "zoom": 2}}, (
            "null takes a wish back, and the device hears of it"
        )


@pytest.mark.parametrize("round_", range(2))
def test_kill_9_loses_and_doubles_nothing(own_server: FleetServer, round_: int) -> None:
    """What was acknowledged is in the database after a kill, once; the device sends the rest again."""
    camera = SimDevice(own_server.enroll("phoenix"))
    camera.mqtt.max_inflight_messages_set(200)
    camera.start()
    mids: set[int] = set()
    sent: dict[str, int] = {}
    camera.mqtt.on_publish = lambda _c, _u, mid, _r, _p: mids.add(mid)
    names = [uuid.uuid4().hex for _ in range(600)]
    killer = threading.Timer(0.15 + 0.2 * round_, own_server.kill)
    killer.start()
    for name in names:
        sent[name] = camera.send_event(event_id=name).mid
    killer.join()
    acknowledged = {name for name, mid in sent.items() if mid in mids.copy()}
    own_server.restart()
    rows = [item["id"] for item in detections(own_server, "phoenix", len(acknowledged))]
    assert acknowledged <= set(rows), f"{len(acknowledged - set(rows))} acknowledged events were lost"
    wait_for(lambda: set(sent.values()) <= mids.copy(), 60, "the rest to be sent again")
    rows = [item["id"] for item in detections(own_server, "phoenix", len(names))]
    assert sorted(rows) == sorted(names)
    camera.stop()
