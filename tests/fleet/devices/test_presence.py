"""Presence: who holds an identity, and who is there at all."""

from __future__ import annotations

import contextlib
import queue
import shutil
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import paho.mqtt.client as mqtt
import pytest
from amqtt.mqtt.protocol.broker_handler import BrokerProtocolHandler
from hypothesis import given, settings
from hypothesis import strategies as st
from paho.mqtt.enums import CallbackAPIVersion

from edgec.device_agent.health.status_socket import query
from edgec.fleet.broker import durable
from edgec.fleet.broker.access import SERVER, Access
from edgec.fleet.broker.embedded import EmbeddedBroker
from edgec.fleet.devices.presence import RETURN_S, apply_heard, apply_status, duplicate
from edgec.fleet.devices.silence import LEAST_S, mark_silent
from edgec.fleet.store.database import Database
from edgec.fleet.store.tables import Device
from edgec.protocol.codec import encode
from edgec.protocol.status import Health, Presence, Status
from tests.device_agent.harness import AgentProcess
from tests.fleet.servers import FleetServer, wait_for
from tests.fleet.sim_device import SimDevice

pytestmark = pytest.mark.backends("embedded", "external")

STREAM = """
[agent]
state = "state"
health_interval_s = 1
[streams.cam]
source = "test"
"""


class Agent(AgentProcess):
    """The agent of an enrolled device, from its state folder."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(exist_ok=True)
        super().__init__(folder, "")
        self.config.write_text(STREAM)

    def status(self) -> dict[str, Any]:
        return query(self.state)


@pytest.fixture
def agents(server: FleetServer, tmp_path: Path) -> Iterator[Any]:
    made: list[Agent] = []

    def make(name: str, copy_of: Agent | None = None) -> Agent:
        agent = Agent(tmp_path / name)
        if copy_of is not None:
            shutil.copytree(
                copy_of.state, agent.state, ignore=lambda *_: ["agent.sock", "agent.lock"], dirs_exist_ok=True
            )
        else:
            with server.client() as client:
                token = client.post("/enroll-tokens", {"uses": 1})["token"]
            command = ["-m", "edgec.cli.main", "agent", "enroll", "--server", server.url, "--token", token]
            command += ["--state", str(agent.state), "--device", name]
            subprocess.run([sys.executable, *command], check=True, capture_output=True)
        made.append(agent)
        agent.start()
        return agent

    yield make
    for agent in made:
        agent.close()


def view(server: FleetServer, name: str) -> dict[str, Any]:
    with server.client() as client:
        return dict(client.get(f"/devices/{name}"))


def test_a_copied_card_is_seen_named_and_refused(server: FleetServer, agents: Any) -> None:
    original = agents("genuine")
    wait_for(lambda: view(server, "genuine")["state"] == "online")
    boot = wait_for(original.status)["boot_id"]
    copy = agents("copied", original)
    found = wait_for(lambda: view(server, "genuine")["duplicate"], 60, "the second device to be seen")
    assert found["holder"] == boot != found["refused"]
    refused = wait_for(lambda: (s := copy.status()) and not s["connected"] and s["degraded"] and s)
    assert "another device uses this identity" in refused["degraded"][0], refused["degraded"]
    held = wait_for(lambda: (s := original.status()) and s["connected"] and s["degraded"] and s)
    assert "a second device uses this identity" in held["degraded"][0], held["degraded"]
    copy.kill()
    with server.client() as client:
        audit = client.get("/audit", search="genuine")["items"]
        assert [one for one in audit if one["action"] == "device.duplicate"]
        # The original gets its jobs without a restart, and stays online.
        job = client.post(
            "/devices/genuine/jobs", {"document": {"operation": "report-health"}, "timeout_s": 60}
        )
        wait_for(lambda: client.get("/devices/genuine/jobs")["items"][0]["state"] == "SUCCEEDED", 60, job)
    assert view(server, "genuine")["state"] == "online"
    assert original.stop() == 0
    wait_for(lambda: view(server, "genuine")["state"] == "stopped")


def test_a_half_open_connection_gives_way_to_the_next(server: FleetServer, device: Any) -> None:
    """The old connection is still open as far as the broker knows, and then it ends."""
    camera = device("halfopen")
    again = SimDevice(camera.access)
    again.boot, again.seq = camera.boot, 2
    closed = threading.Event()

    def end(*_: Any) -> None:
        camera.mqtt.loop_stop()  # paho-mqtt returns after a `disconnect` made here, and pushes the second out.
        closed.set()

    camera.mqtt.on_disconnect = end
    again.start()
    assert closed.wait(60), "the first connection is closed"
    wait_for(lambda: view(server, "halfopen")["state"] == "online")
    with server.client() as client:
        client.post("/devices/halfopen/jobs", {"document": {"operation": "report-health"}, "timeout_s": 60})
    wait_for(lambda: again.jobs_done, 60, "the job on the second connection")
    assert view(server, "halfopen")["duplicate"] is None
    again.stop()


@pytest.mark.embedded
def test_a_stranger_cannot_end_anybodys_session(server: FleetServer, device: Any) -> None:
    camera = device("undisturbed")
    stranger = SimDevice(camera.access | {"mqtt": camera.access["mqtt"] | {"password": "wrong"}})
    stranger.mqtt.connect(stranger.access["mqtt"]["host"], stranger.access["mqtt"]["port"])
    stranger.mqtt.loop_start()
    wait_for(lambda: stranger.refused)
    stranger.mqtt.loop_stop()
    camera.send_event(event_id="still here").wait_for_publish(30)
    assert camera.mqtt.is_connected()


def test_a_connection_without_connect_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(durable, "CONNECT_S", 0.3)
    rules = Access("f", "", lambda _name: None, lambda _hash, _password: False)
    broker = EmbeddedBroker("127.0.0.1", 0, rules, lambda _message: True)
    broker.start()
    for first in (b"", b"\x10", b"GET / HTTP/1.1\r\n"):
        with socket.create_connection(("127.0.0.1", broker.port)) as idle:
            idle.settimeout(60)
            idle.sendall(first)
            with contextlib.suppress(ConnectionResetError):  # As good.
                assert idle.recv(1) == b"", "the broker closes it"
    broker.stop()


def test_a_connection_that_the_broker_gives_up_is_closed_with_its_last_will() -> None:
    """A message to an illegal topic ends amqtt's work for a connection, which then looked connected for ever."""
    rules = Access("f", "x", lambda _name: "x", lambda _hash, _password: True)
    heard: queue.Queue[str] = queue.Queue()
    broker = EmbeddedBroker("127.0.0.1", 0, rules, lambda _message: True)
    broker.start()
    server = mqtt.Client(CallbackAPIVersion.VERSION2, f"{SERVER}:1")
    server.username_pw_set(SERVER, "x")
    server.on_message = lambda _client, _data, message: heard.put(message.payload.decode())
    server.on_subscribe = lambda *_: heard.put("subscribed")
    server.on_connect = lambda client, *_: client.subscribe("edgec/v1/f/d/status", 1)
    server.connect("127.0.0.1", broker.port)
    server.loop_start()
    assert heard.get(timeout=60) == "subscribed"
    texts = ("edgec-f-d", "edgec/v1/f/d/status", "gone", "d", "x")
    payload = b"".join(struct.pack("!H", len(text)) + text.encode() for text in texts)
    connect = b"\x00\x04MQTT\x04" + bytes([0xC6]) + b"\x00\x3c" + payload
    with socket.create_connection(("127.0.0.1", broker.port)) as device:
        device.settimeout(60)
        device.sendall(bytes([0x10, len(connect)]) + connect)
        assert device.recv(4) == b"\x20\x02\x00\x00"
        device.sendall(b"\x30\x06\x00\x03$a/x")
        with contextlib.suppress(ConnectionResetError):
            assert device.recv(1) == b"", "the broker closes it"
    assert heard.get(timeout=60) == "gone"
    wait_for(lambda: broker.sessions() == 1, 60, "only the server's connection is left")
    server.disconnect()
    server.loop_stop()
    broker.stop()


def test_a_connection_that_does_not_end_is_closed_by_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that does not hear that it is to end."""
    monkeypatch.setattr(durable, "TAKE_OVER_S", 0.3)

    async def forgets(_handler: Any) -> None:
        pass

    monkeypatch.setattr(BrokerProtocolHandler, "handle_connection_closed", forgets)
    rules = Access("f", "x", lambda _name: "x", lambda _hash, _password: True)
    broker = EmbeddedBroker("127.0.0.1", 0, rules, lambda _message: True)
    broker.start()
    body = b"\x00\x04MQTT\x04\xc2\x00\x3c\x00\x09edgec-f-d\x00\x01d\x00\x01x"
    with (
        socket.create_connection(("127.0.0.1", broker.port)) as first,
        socket.create_connection(("127.0.0.1", broker.port)) as second,
    ):
        for one in (first, second):
            one.settimeout(60)
            one.sendall(bytes([0x10, len(body)]) + body)
            assert one.recv(4) == b"\x20\x02\x00\x00"
        with contextlib.suppress(ConnectionResetError):
            assert first.recv(1) == b"", "the broker closes it"
        second.sendall(b"\xc0\x00")
        assert second.recv(2) == b"\xd0\x00", "the second is served"
    broker.stop()


def test_of_many_connections_at_once_one_stays() -> None:
    """Each ends the one before, also while that has just begun."""
    rules = Access("f", "x", lambda _name: "x", lambda _hash, _password: True)
    broker = EmbeddedBroker("127.0.0.1", 0, rules, lambda _message: True)
    broker.start()
    body = b"\x00\x04MQTT\x04\xc2\x00\x3c\x00\x09edgec-f-d\x00\x01d\x00\x01x"
    with contextlib.ExitStack() as stack:
        made = [
            stack.enter_context(socket.create_connection(("127.0.0.1", broker.port))) for _number in range(12)
        ]
        for one in made:
            one.settimeout(60)
            one.sendall(bytes([0x10, len(body)]) + body)

        def still_open() -> int:
            return sum(not ended(one) for one in made)

        wait_for(lambda: still_open() == 1, 60, "all but one to be closed")
    broker.stop()


def ended(connection: socket.socket) -> bool:
    """Whether the other side has closed it; reads what has arrived."""
    connection.setblocking(False)
    try:
        while connection.recv(64):
            pass
    except BlockingIOError:
        return False
    except ConnectionResetError:
        pass
    return True


# The state machine.


class Life:
    """A process of the agent: its boot, its sessions and the record on its card."""

    def __init__(self, boot: str, card: list[str]) -> None:
        self.boot, self.card, self.seq = boot, card, len(card)
        self.connected = False

    def online(self) -> bytes:
        self.seq += 1
        self.card.insert(0, f"{self.boot}-{self.seq}")
        return self._status(Presence.ONLINE, self.card[1:])

    def end(self, state: Presence) -> bytes:
        return self._status(state, [])

    def _status(self, state: Presence, before: list[str]) -> bytes:
        return encode(
            Status(
                state=state, boot_id=self.boot, session_seq=self.seq, session=self.card[0], before=before[:31]
            )
        )

    def health(self) -> Health:
        return Health(boot_id=self.boot, session_seq=self.seq, time="2026-01-01T00:00:00Z")


def row() -> Device:
    return Device(
        name="d",
        state="never",
        boot_id="",
        session_seq=0,
        session_tokens=[],
        rival={},
        agent_version="",
        target="",
    )


@settings(max_examples=300, deadline=None)
@given(
    st.integers(1, 5),
    st.integers(0, 4),
    st.lists(st.tuples(st.sampled_from("ab"), st.floats(0.1, 20)), max_size=8),
)
def test_the_original_wins_whatever_the_order(
    before: int, after: int, turns: list[tuple[str, float]]
) -> None:
    """A card is copied; both run, and each connection ends the other's: the broker allows one of a name."""
    device, now = row(), 1000.0
    original = Life("a", [])
    for _ in range(before):
        now += 5
        apply_status(device, original.online(), now)
    copy = Life("b", list(original.card))
    for _ in range(after):
        now += 5
        apply_status(device, original.online(), now)
    refused: set[str] = set()
    # Whoever is not refused returns within the usual wait, the original in any case.
    for who, wait_s in [("b", 1.0), *turns, ("a", 5.0), ("b", 5.0), ("a", 5.0)]:
        now += wait_s
        life, other = (original, copy) if who == "a" else (copy, original)
        if other.connected:
            other.connected = False
            apply_status(device, other.end(Presence.OFFLINE), now)
        life.connected = True
        arrival = apply_status(device, life.online(), now)
        if arrival.notice is not None:
            refused.add(arrival.notice.refused)
    assert device.boot_id == "a"
    assert refused == {"b"}
    assert duplicate(device, now) is not None
    assert not apply_heard(device, copy.health(), now)
    apply_status(device, copy.end(Presence.STOPPED), now)
    assert device.state == "online", "the copy's end is not the original's"


def test_restarts_are_no_rivals() -> None:
    device, now, card = row(), 1000.0, list[str]()
    for number, end in enumerate(
        [Presence.STOPPED, Presence.OFFLINE, None, Presence.OFFLINE, Presence.STOPPED]
    ):
        life = Life(f"boot-{number}", card)
        now += 1
        apply_status(device, life.online(), now)
        assert (device.state, device.boot_id) == ("online", life.boot)
        if end is not None:
            apply_status(device, life.end(end), now)
            assert device.state == end.value
        assert duplicate(device, now) is None
    now += 2 * RETURN_S
    apply_status(device, Life("last", card).online(), now)
    assert (device.state, device.session_tokens[0]) == ("online", card[0])


def test_a_copy_takes_over_once_the_original_is_gone_for_good() -> None:
    device, now = row(), 1000.0
    original = Life("a", [])
    apply_status(device, original.online(), now)
    copy = Life("b", list(original.card))
    apply_status(device, copy.online(), now + 1)
    apply_status(device, original.online(), now + 2)
    assert duplicate(device, now + 2)
    apply_status(device, original.end(Presence.OFFLINE), now + 3)
    apply_status(device, copy.online(), now + 4)
    assert device.boot_id == "a"
    apply_status(device, copy.online(), now + 2 * RETURN_S)
    assert (device.boot_id, device.state) == ("b", "online")


def test_a_report_is_presence() -> None:
    device, life = row(), Life("a", [])
    apply_status(device, life.online(), 1000.0)
    apply_status(device, life.end(Presence.OFFLINE), 1001.0)
    assert apply_heard(device, life.health(), 1002.0)
    assert device.state == "online"


def test_silence_is_absence(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path / 's.db'}")
    database.migrate()
    now = time.time()
    with database.writing() as session:
        for name, seen, pace in (
            ("quiet", 200, 10.0),
            ("slow", 200, 300.0),
            ("old", 200, None),
            ("here", 5, 10.0),
        ):
            session.add(Device(name=name, state="online", last_seen=now - seen, report_interval_s=pace))
    with database.writing() as session:
        assert mark_silent(session, now, LEAST_S) == 0, "we have not listened for long enough"
        assert mark_silent(session, now, 3600.0) == 1
        states = {device.name: device.state for device in session.query(Device)}
    assert states == {"quiet": "offline", "slow": "online", "old": "online", "here": "online"}
    database.close()
