"""Processes of the fleet that come, go, crash and scale down: no message waits for one to return."""

from __future__ import annotations

import random
import tempfile
import threading
import uuid
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgec.fleet.broker.mqtt_client import BrokerAddress
from edgec.fleet.ingest import sessions
from edgec.fleet.ingest.sessions import IngestSessions, session_names
from edgec.fleet.store.database import Database
from edgec.fleet.store.tables import Lease
from tests.fleet.servers import FleetServer, wait_for
from tests.fleet.sim_device import SimDevice

SHARED = {"EDGEC_FLEET_MQTT_SHARED": "ingest"}


class Reporter:
    """A device that reports without pause; `sent` are the ids of its events."""

    def __init__(self, camera: SimDevice) -> None:
        self.camera, self.sent = camera, list[str]()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._ended.wait(0.02):
            self.sent.append(uuid.uuid4().hex)
            self.camera.send_event(event_id=self.sent[-1])

    def stop(self) -> None:
        self._ended.set()
        self._thread.join()
        self.camera.stop()


def received(server: FleetServer, name: str) -> list[str]:
    # Only the first process of a database has made an administrator.
    token = next(path.read_text().strip() for path in sorted(server.data.parent.glob("*/admin-token")))
    with server.client(token) as client:
        return sorted(item["id"] for item in client.pages(f"/devices/{name}/detections", limit=1000))


def held(server: FleetServer) -> int:
    for line in httpx.get(f"{server.url}/metrics").text.splitlines():
        if line.startswith("edgec_ingest_sessions "):
            return int(float(line.split()[1]))
    raise AssertionError("no such metric")


def all_arrive(server: FleetServer, reporter: Reporter) -> None:
    """What was sent so far is stored, each once, without anybody's return."""
    upto = set(reporter.sent)
    wait_for(lambda: upto <= set(received(server, reporter.camera.name)), 60, "every message so far")


def shared_pair(own_server: FleetServer, tmp_path: Path, count: int = 2) -> list[FleetServer]:
    own_server.stop_process()
    own_server.environment |= SHARED
    own_server.start()
    more = [FleetServer(tmp_path / f"more-{i}", **own_server.environment).start() for i in range(count - 1)]
    return [own_server, *more]


@pytest.mark.external
def test_a_server_that_stops_or_crashes_leaves_nothing_behind(
    own_server: FleetServer, tmp_path: Path
) -> None:
    first, second = shared_pair(own_server, tmp_path)
    wait_for(lambda: (held(first), held(second)) == (2, 2), 60, "equal shares")
    reporter = Reporter(SimDevice(first.enroll("lasting")).start())
    all_arrive(first, reporter)
    second.stop_process()
    all_arrive(first, reporter)
    assert held(first) == 4
    second.start()
    wait_for(lambda: (held(first), held(second)) == (2, 2), 60, "equal shares again")
    second.kill()
    all_arrive(first, reporter)
    wait_for(lambda: held(first) == 4, 60, "the sessions of the dead process")
    # Scaled down to one process with one session: the four are emptied and given up.
    first.stop_process()
    before = len(reporter.sent)
    wait_for(lambda: len(reporter.sent) > before + 50, 60, "messages that no server takes")
    first.environment.pop("EDGEC_FLEET_MQTT_SHARED")
    first.start()
    all_arrive(first, reporter)
    reporter.stop()
    wait_for(lambda: len(received(first, "lasting")) == len(reporter.sent), 60, "the end")
    assert received(first, "lasting") == sorted(reporter.sent), "none lost, none twice"


@pytest.mark.long
@pytest.mark.external
@pytest.mark.timeout(900)
def test_any_order_of_starts_stops_and_kills(own_server: FleetServer, tmp_path: Path) -> None:
    """Three processes, thirty random changes; whenever one is left, everything arrives there."""
    chance = random.Random()
    servers = shared_pair(own_server, tmp_path, 3)
    reporter = Reporter(SimDevice(own_server.enroll("sweep")).start())
    running = set(range(3))
    for _ in range(30):
        number = chance.randrange(3)
        if number not in running:
            servers[number].start()
            running.add(number)
        elif len(running) > 1:
            (servers[number].kill if chance.random() < 0.5 else servers[number].stop_process)()
            running.discard(number)
        if chance.random() < 0.3:
            all_arrive(servers[min(running)], reporter)
    last = servers[min(running)]
    all_arrive(last, reporter)
    reporter.stop()
    wait_for(lambda: len(received(last, "sweep")) >= len(reporter.sent), 60, "the end")
    assert received(last, "sweep") == sorted(reporter.sent)
    for server in servers:
        server.stop_process()


class _Client:
    """In place of a connection; as at the broker, a new one of a session ends the one before it."""

    connected: dict[str, _Client] = {}  # noqa: RUF012

    def __init__(self, _address: object, spec: Any, *_: object) -> None:
        self.name, self.retired = spec.client_id, threading.Event()
        if spec.retiring:
            self.retired.set()

    def begin(self) -> None:
        _Client.connected[self.name] = self

    def stop(self) -> None:
        if _Client.connected.get(self.name) is self:
            del _Client.connected[self.name]


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from(["tick", "start", "stop", "kill"]), st.integers(0, 3)), max_size=25)
)
def test_every_session_is_held_once_by_the_living(steps: list[tuple[str, int]]) -> None:
    _Client.connected = {}
    folder = tempfile.TemporaryDirectory()
    database = Database(f"sqlite:///{folder.name}/leases.db")
    Lease.metadata.create_all(database.engine, tables=[Lease.metadata.tables["leases"]])
    names = session_names("fleet", "f", "g", 5)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sessions, "MqttClient", _Client)
        now, living = 1000.0, dict[int, IngestSessions]()

        def make(number: int) -> None:
            living[number] = one = IngestSessions(
                database,
                BrokerAddress("h", 1, "u", "p"),
                "f",
                "g",
                names,
                lambda _: True,
                lambda _n, run: run(),
            )
            patch.setattr(sessions.time, "time", lambda: now)
            one.first("")

        for what, number in [*steps, ("start", 0)]:
            now += 3.0
            if what == "start" and number not in living:
                make(number)
            elif what == "stop" and number in living:
                one = living.pop(number)
                one.stop()
                one.run()
            elif what == "kill" and number in living:
                for held_client in living.pop(number)._held.values():
                    held_client.client.stop()
            elif number in living:
                living[number].tick(now)
        for _ in range(12):
            now += 3.0
            for one in living.values():
                one.tick(now)
        shares = [one.held for one in living.values()]
        assert sorted(name for share in shares for name in share) == sorted(names)
        assert sorted(_Client.connected) == sorted(names), "each is connected"
        mine = {id(held.client) for one in living.values() for held in one._held.values()}
        assert mine == {id(client) for client in _Client.connected.values()}, "by its holder"
        assert max(map(len, shares)) - min(map(len, shares)) <= -(-len(names) // len(shares))
    database.close()
    folder.cleanup()
