"""What the fleet must survive: databases and brokers that go away, two processes at the same work, wrong clocks, and
devices and users that mean ill. docs/fleet-faults.md has the list."""

from __future__ import annotations

import json
import queue
import sqlite3
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import func, select

from edgec.fleet.broker.messages import Inbound
from edgec.fleet.devices.enrolment import NewEnrollToken, enroll, issue_enroll_token
from edgec.fleet.ingest.worker import Ingest
from edgec.fleet.store.database import Database
from edgec.fleet.store.tables import Detection, Device, Telemetry
from edgec.protocol.enrol import EnrollRequest
from tests.fleet.artifacts import make_artifact
from tests.fleet.servers import Backend, FleetServer, wait_for
from tests.fleet.sim_device import SimDevice

pytestmark = pytest.mark.backends("embedded", "external")

Make = Callable[..., SimDevice]


def rows(server: FleetServer, name: str) -> list[str]:
    with server.client() as client:
        return [item["id"] for item in client.pages(f"/devices/{name}/detections", limit=1000)]


def steady(camera: SimDevice, seconds: float, pace_s: float = 0.02) -> list[str]:
    """Events at a steady pace; their ids."""
    sent = []
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        sent.append(uuid.uuid4().hex)
        camera.send_event(event_id=sent[-1])
        time.sleep(pace_s)
    return sent


def test_the_database_goes_away_and_comes_back(own_server: FleetServer, backend: Backend) -> None:
    camera = SimDevice(own_server.enroll("away-1")).start()
    sent = steady(camera, 0.5)
    if backend.postgres is not None:
        backend.postgres.stop(immediately=True)
        sent += steady(camera, 2.0)
        ready = httpx.get(f"{own_server.url}/readyz")
        assert (ready.status_code, ready.json()["database"]) == (503, "unreachable")
        answer = httpx.get(
            f"{own_server.url}/api/v1/devices", headers={"Authorization": f"Bearer {own_server.token}"}
        )
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")
        backend.postgres.start()
    else:
        with sqlite3.connect(own_server.data / "fleet.db", isolation_level=None) as other:
            other.execute("BEGIN EXCLUSIVE")
            sent += steady(camera, 2.0)
            other.execute("ROLLBACK")
    sent += steady(camera, 0.5)
    wait_for(lambda: len(rows(own_server, "away-1")) >= len(sent), 40, "every event")
    assert sorted(rows(own_server, "away-1")) == sorted(sent), "none lost, none twice"
    assert own_server.process.poll() is None
    wait_for(lambda: httpx.get(f"{own_server.url}/readyz").status_code == 200)
    camera.stop()


@pytest.mark.external
def test_the_broker_goes_away_and_comes_back(own_server: FleetServer) -> None:
    """The embedded broker is in the server's process; killing that is test_kill_9_loses_and_doubles_nothing."""
    assert own_server.broker is not None
    camera = SimDevice(own_server.enroll("broker-1")).start()
    sent = steady(camera, 0.5)
    own_server.broker.stop()
    sent += steady(camera, 1.5)
    assert httpx.get(f"{own_server.url}/readyz").json()["broker"] == "unreachable"
    own_server.broker.start()
    sent += steady(camera, 0.5)
    wait_for(lambda: len(rows(own_server, "broker-1")) >= len(sent), 40, "every event")
    assert sorted(rows(own_server, "broker-1")) == sorted(sent)
    own_server.broker.stop(immediately=True)
    own_server.broker.start()
    wait_for(lambda: httpx.get(f"{own_server.url}/readyz").status_code == 200, 40)
    wait_for(camera.mqtt.is_connected, 20)
    camera.send_event(event_id="after the crash")
    wait_for(lambda: "after the crash" in rows(own_server, "broker-1"), 20)
    camera.stop()


@pytest.mark.external
def test_two_processes_do_one_rollout_once(own_server: FleetServer, tmp_path: Path) -> None:
    """SQLite belongs to one process: test_a_taken_port_or_folder_is_said_in_one_line."""
    from edgec.fleet.client.push import push_artifact

    shared = {"EDGEC_FLEET_MQTT_SHARED": "ingest"}
    own_server.stop_process()
    own_server.environment |= shared
    own_server.start()
    second = FleetServer(tmp_path / "second", **own_server.environment).start()
    devices = [SimDevice(own_server.enroll(f"pair-{i}")).start() for i in range(12)]
    path = tmp_path / "a.edge"
    make_artifact(path, "pair")
    with own_server.client() as client:
        push_artifact(client, path, None, None, lambda *_: None)
        stages = [{"percent": 25}, {"percent": 100}]
        body = {
            "model": "pair", "version": "1", "scope": {"kind": "all", "name": ""}, "plan": {"stages": stages}
        }  # fmt: skip
        number = client.post("/rollouts", body)["id"]
        rollout = wait_for(lambda: (r := client.get(f"/rollouts/{number}"))["ended"] and r, 60, "the end")
        assert (rollout["state"], rollout["devices"]) == ("SUCCEEDED", {"SUCCEEDED": 12})
        for item in devices:
            assert len(client.get(f"/devices/{item.name}/jobs")["items"]) == 1, "asked once"
            assert len(item.jobs_done) == 1
        sent = {item.name: steady(item, 0.2) for item in devices[:4]}
        for name, ids in sent.items():
            wait_for(lambda name=name, ids=ids: len(rows(own_server, name)) >= len(ids), 30)
            assert sorted(rows(own_server, name)) == sorted(ids)
        written = [
            httpx.get(f"{server.url}/metrics").text.count('ingest_messages_total{kind="event"}')
            for server in (own_server, second)
        ]
        assert written == [1, 1], "both take a share"
    for item in devices:
        item.stop()
    second.stop()


def test_wrong_clocks_do_not_move_what_is_seen(server: FleetServer, device: Make) -> None:
    camera = device("clock-1")
    for year in (1970, 2099):
        health = json.loads(_health(camera))
        health["time"] = f"{year}-06-01T00:00:00Z"
        camera.mqtt.publish(camera.topics.health, json.dumps(health).encode(), 1).wait_for_publish(60)
    camera.send_event("last").wait_for_publish(60)
    wait_for(lambda: rows(server, "clock-1"))
    with server.client() as client:
        items = client.get("/devices/clock-1/telemetry", since=1.0)["items"]
        assert len(items) >= 3
        assert all(abs(item["at"] - time.time()) < 60 for item in items)
        assert abs(client.get("/devices/clock-1")["last_seen"] - time.time()) < 60


def _health(camera: SimDevice) -> bytes:
    found: list[bytes] = []
    publish = camera.mqtt.publish
    camera.mqtt.publish = lambda topic, payload, qos: found.append(payload)  # type: ignore[method-assign,assignment]
    camera.send_health()
    camera.mqtt.publish = publish  # type: ignore[method-assign]
    return found[0]


class _Desk:
    """Counts confirmations."""

    def __init__(self) -> None:
        self.confirmed: list[int] = []

    def acknowledge(self, numbers: list[int]) -> None:
        self.confirmed += numbers

    def publish(self, topic: str, payload: bytes, *, retain: bool = False) -> None:
        assert topic.startswith("edgec/v1/")


LIES: list[tuple[str, Any]] = [
    ("health", {"streams": [{"name": "cam", "state": "running", "captured": 10**40, "dropped": 10**40}]}),
    ("health", {"memory_bytes": 2**70, "cpu_percent": 1e308, "temperature_c": -1e308}),
    ("health", {"agent_version": "9" * 100_000}),
    ("health", {"models": [{"slot": "m", "name": "n" * 5000, "version": "v" * 5000, "state": "running"}]}),
    ("events/cam", {"id": "nul\u0000nul"}),
    ("events/cam", {"data": {"label": "l" * 100_000, "track_id": "t" * 5000}}),
    ("events/cam", {"data": {"label": "'); DROP TABLE detections; --"}}),
    ("events/cam", {"data": {"label": "\ud800"}}),
    ("events/cam", {"time": "9999-12-31T23:59:59.999999Z"}),
    ("status", {"state": "online", "boot_id": "b", "session_seq": 10**30}),
    ("status", {"state": "online", "boot_id": "b", "session_seq": 1, "target": "x" * 10_000}),
    ("jobs/none/update", {"state": "SUCCEEDED", "details": {"a": "\u0000"}}),
    ("shadow/name/s/update", {"state": {"reported": {"a": "x" * 60_000, "b": "\u0000"}}}),
    ("shadow/name/s/update", {"state": {"reported": {"n": 10**400}}}),
]


@pytest.fixture(scope="module")
def intake(backend: Backend, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """An ingest over a real database, with a device called `liar`."""
    url = f"sqlite:///{tmp_path_factory.mktemp('intake') / 'i.db'}"
    if backend.postgres is not None:
        url = backend.postgres.create(f"intake-{uuid.uuid4().hex[:8]}")
    database = Database(url)
    database.migrate()
    with database.writing() as session:
        _row, secret = issue_enroll_token(session, "test", NewEnrollToken(uses=1))
        enroll(session, EnrollRequest(token=secret, device="liar", target="x86-64-v3"))
    desk, stopped = _Desk(), threading.Event()
    ingest = Ingest(database, desk, "default", lambda: None)
    thread = threading.Thread(target=ingest.run, args=(stopped,), daemon=True)
    thread.start()
    yield database, ingest, desk, thread
    ingest.stop()
    thread.join(60)
    assert not thread.is_alive()
    database.close()


def _good_event() -> tuple[str, bytes]:
    access = {"device": "liar", "fleet": "default", "mqtt": {"username": "u", "password": "p"}}
    topic, payload = SimDevice(access).event(event_id=uuid.uuid4().hex)
    return topic, payload


def _through(intake: Any, messages: list[tuple[str, bytes]]) -> None:
    """Everything is confirmed, and a good message behind it is stored."""
    database, ingest, desk, thread = intake
    with database.reading() as session:
        before = session.scalar(
            select(func.count()).select_from(Detection).where(Detection.label == "person")
        )
    start = len(desk.confirmed)
    messages = [*messages, _good_event()]
    for number, (topic, payload) in enumerate(messages):
        assert ingest.offer(Inbound(topic, payload, number, desk))
    wait_for(lambda: len(desk.confirmed) >= start + len(messages), 20, "confirmation of all")
    assert sorted(desk.confirmed[start:]) == list(range(len(messages)))
    assert thread.is_alive()
    with database.reading() as session:
        after = session.scalar(select(func.count()).select_from(Detection).where(Detection.label == "person"))
        assert after == before + 1
        for value in session.scalars(select(Telemetry.dropped).where(Telemetry.dropped.is_not(None))):
            assert 0 <= value < 2**63


@pytest.mark.parametrize("case", range(len(LIES)))
def test_a_device_that_lies_harms_nobody_else(intake: Any, case: int) -> None:
    kind, lie = LIES[case]
    base: dict[str, Any] = {}
    if kind == "events/cam":
        base = json.loads(_good_event()[1])
        base["data"]["label"] = "lie"
        lie = {**lie, "data": {**base["data"], **lie.get("data", {})}}
    if kind == "health":
        base = {"boot_id": "b", "session_seq": 1, "time": datetime.now(UTC).isoformat()}
    payload = json.dumps({**base, **lie}).encode()
    _through(intake, [(f"edgec/v1/default/liar/{kind}", payload)])


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["events/cam", "health", "status", "jobs/j/update", "shadow/name/s/get", "x", ""])
            | st.text(max_size=20),
            st.binary(max_size=60)
            | st.recursive(
                st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10),
                lambda inner: (
                    st.lists(inner, max_size=3)
                    | st.dictionaries(
                        st.sampled_from(["state", "time", "id", "data", "streams", "boot_id", "session_seq"]),
                        inner,
                    )
                ),
                max_leaves=8,
            ).map(lambda value: json.dumps(value).encode()),
        ),
        max_size=8,
    )
)
def test_nonsense_harms_nobody(intake: Any, messages: list[tuple[str, bytes]]) -> None:
    _through(intake, [(f"edgec/v1/default/liar/{kind}", payload) for kind, payload in messages])


def test_a_device_deleted_meanwhile_takes_nobody_along(intake: Any) -> None:
    database, _ingest, _desk, _thread = intake
    with database.writing() as session:
        _row, secret = issue_enroll_token(session, "test", NewEnrollToken(uses=1))
        gone, _p, _t = enroll(session, EnrollRequest(token=secret, device=f"gone-{uuid.uuid4().hex[:6]}"))
        name = gone.name
    with database.writing() as session:
        session.delete(session.scalar(select(Device).where(Device.name == name)))
    topic, payload = _good_event()
    _through(intake, [(topic.replace("liar", name), payload)])


def test_a_device_that_only_detects_is_still_seen(intake: Any) -> None:
    database, ingest, desk, _thread = intake
    with database.writing() as session:
        _row, secret = issue_enroll_token(session, "test", NewEnrollToken(uses=1))
        name = enroll(session, EnrollRequest(token=secret, device=f"seen-{uuid.uuid4().hex[:6]}"))[0].name
    start, then = len(desk.confirmed), time.time() - 100

    def seen() -> float:
        with database.reading() as session:
            return float(session.scalar(select(Device.last_seen).where(Device.name == name)) or 0.0)

    for number, at in enumerate((then, then + 60, then + 60.5)):
        topic, payload = _good_event()
        message = Inbound(topic.replace("liar", name), payload, number, desk, received_at=at)
        assert ingest.offer(message)
        wait_for(lambda count=number: len(desk.confirmed) > start + count, 20, "confirmation")
        assert seen() == pytest.approx(min(at, then + 60)), "within five seconds, and never back"


def test_a_full_queue_refuses_instead_of_losing(intake: Any) -> None:
    database, _ingest, desk, _thread = intake
    alone = Ingest(database, desk, "default", lambda: None)
    alone._queue = queue.Queue(3)
    taken = [alone.offer(Inbound(*_good_event(), number, desk)) for number in range(5)]
    assert taken == [True, True, True, False, False]


def test_a_flood_of_one_does_not_drown_the_others(server: FleetServer, device: Make) -> None:
    flood, other = device("flood-1"), device("flood-2")
    for _ in range(1500):
        flood.send_event("flood")
    other.send_event(event_id="heard")
    wait_for(lambda: "heard" in rows(server, "flood-2"), 30)
    wait_for(lambda: len(rows(server, "flood-1")) == 1500, 60)


HOSTILE = (
    "../../etc/passwd", "..", ".", "a/../../b", "%2e%2e%2f", "..%2f..%2fx", "/etc/passwd", "C:\\x", "a\x00b",
    "'; DROP TABLE devices; --", '" OR 1=1 --', "${jndi:ldap://x}", "{{7*7}}", "<script>alert(1)</script>",
    "a\nb", "+", "#", "$SYS", "edgec:fleet", "x" * 300, " ", "\u202eevil", "`id`", "$(id)", "|id", "-rf",
)  # fmt: skip


@pytest.fixture(scope="module")
def patient(backend: Backend, tmp_path_factory: pytest.TempPathFactory) -> Iterator[FleetServer]:
    """A server that locks nobody out: the hostile names are as many failed enrolments from one address."""
    many = {"EDGEC_FLEET_LOCKOUT_FAILURES": "1000"}
    running = FleetServer(tmp_path_factory.mktemp("patient") / "data", backend=backend, **many).start()
    yield running
    assert running.stop() == 0, running.log.read_text()


@pytest.mark.parametrize("name", HOSTILE, ids=range(len(HOSTILE)))
def test_no_name_leads_out_of_its_place(patient: FleetServer, name: str) -> None:
    """Every name that a user or device can choose: refused, or kept as it is; never an error of ours."""
    from urllib.parse import quote

    server, part = patient, quote(name, safe="")
    before = written(server)
    digest = "sha256:" + "0" * 64
    with server.client() as client:
        secret = client.post("/enroll-tokens", {"uses": 5})["token"]
        send = client.http.request
        asked = [
            send("POST", "/api/v1/enroll", json={"token": secret, "device": name}),
            send("POST", "/api/v1/enroll", json={"token": name}),
            send("PUT", f"/api/v1/groups/{part}", json={"devices": [name]}),
            send("PUT", "/api/v1/groups/hostile", json={"selector": {"labels": {name: name}}}),
            send("POST", "/api/v1/access-tokens", json={"name": name}),
            send("GET", f"/api/v1/devices/{part}"),
            send("GET", "/api/v1/devices", params={"search": name, "version": name, "cursor": name}),
            send("PATCH", f"/api/v1/devices/{part}/shadows/{part}", json={"desired": {name: name}}),
            send("DELETE", f"/api/v1/devices/{part}/jobs/{part}"),
            send("GET", f"/api/v1/models/{part}"),
            send("DELETE", f"/api/v1/certificates/{part}"),
            send("POST", "/api/v1/rollouts", json={
                "model": name, "version": name, "scope": {"kind": "group", "name": name}}),
            send("GET", f"/v2/{part}/manifests/{part}"),
            send("PUT", f"/v2/models/x/manifests/{part}", content=b"{}"),
            send("GET", f"/v2/models/x/blobs/{part}"),
            send("POST", f"/v2/{part}/blobs/uploads/", params={"mount": digest, "from": name}),
            send("PATCH", f"/v2/models/x/blobs/uploads/{part}", content=b"evil"),
            send("PUT", f"/v2/models/x/blobs/uploads/{part}", params={"digest": name}, content=b"evil"),
            send("GET", f"/tuf/metadata/{part}"),
            send("GET", f"/tuf/targets/{part}"),
        ]  # fmt: skip
        for answer in asked:
            assert answer.status_code < 500, (answer.request.method, str(answer.request.url), answer.text)
        assert asked[1].status_code in (403, 422)
        client.http.delete("/api/v1/groups/hostile")
    made = written(server) - before
    assert {path for path in made if not path.is_relative_to(server.data)} <= {server.log}
    assert not {path for path in made if path.read_bytes() in (b"evil", b"{}")}, (
        "nothing was stored by that name"
    )


def written(server: FleetServer) -> set[Path]:
    """The files in the server's folders, and what lies in the folder above them, where `..` would lead.

    Above, other folders are not looked into: programs that other tests started write there.
    """
    own = server.data.parent
    files = {path for path in own.rglob("*") if path.is_file() and not path.is_symlink()}
    return files | set(own.parent.iterdir())
