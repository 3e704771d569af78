"""Servers and devices for the fleet's tests."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from fleet_harness import FleetServer, SimDevice, make_artifact


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FleetServer]:
    """One server for a module's tests, which keep out of each other's way by names."""
    running = FleetServer(tmp_path_factory.mktemp("fleet") / "data").start()
    yield running
    assert running.stop() == 0, running.log.read_text()


@pytest.fixture
def own_server(tmp_path: Path) -> Iterator[FleetServer]:
    """A server for one test alone."""
    running = FleetServer(tmp_path / "data").start()
    yield running
    if running.process.poll() is None:
        running.stop()


@pytest.fixture
def device(server: FleetServer) -> Iterator[Callable[..., SimDevice]]:
    """Makes enrolled, connected devices."""
    made: list[SimDevice] = []

    def make(name: str, target: str = "x86-64-v3", **labels: str) -> SimDevice:
        made.append(SimDevice(server.enroll(name, target, **labels), target).start())
        return made[-1]

    yield make
    for item in made:
        item.stop()


@pytest.fixture
def push(server: FleetServer, tmp_path: Path) -> Callable[..., str]:
    """Pushes a made-up artifact and gives its digest."""
    from edgec.fleet.push import push_artifact

    def put(name: str, version: str = "1", target: str = "x86-64-v3") -> str:
        path = tmp_path / f"{name}-{version}-{target}.edge"
        make_artifact(path, name, version, target)
        with server.client() as client:
            return push_artifact(client, path, None, None, lambda *_: None).digest

    return put
