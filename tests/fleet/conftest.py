"""Servers and devices for the fleet's tests."""

from __future__ import annotations

import os
import ssl
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import httpx._transports.default
import pytest
from httpx._config import DEFAULT_TIMEOUT_CONFIG

from edgec.benchmarks.fleet.backends import BackendMissing, Postgres, program
from tests.fleet.artifacts import make_artifact
from tests.fleet.servers import Backend, FleetServer, ObjectStore
from tests.fleet.sim_device import SimDevice

# A loaded machine may take longer to answer than httpx's five seconds, and that is no failure.
for part in ("connect", "read", "write", "pool"):
    setattr(DEFAULT_TIMEOUT_CONFIG, part, 60.0)

_create = httpx._transports.default.create_ssl_context


@cache
def _trusting(_file: str | None, _folder: str | None) -> ssl.SSLContext:
    return _create()


def _create_once(verify: Any = True, cert: Any = None, trust_env: bool = True) -> ssl.SSLContext:
    """One for all requests that say nothing: to read the system's authorities takes 20 ms."""
    if verify is True and cert is None and trust_env:
        return _trusting(os.environ.get("SSL_CERT_FILE"), os.environ.get("SSL_CERT_DIR"))
    return _create(verify, cert, trust_env)


httpx._transports.default.create_ssl_context = _create_once


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run a test on the backends that its module names (`pytestmark = pytest.mark.backends(…)`) or that it is about."""
    if "backend" in metafunc.fixturenames:
        named = metafunc.definition.get_closest_marker("backends")
        about = [kind for kind in ("embedded", "external") if metafunc.definition.get_closest_marker(kind)]
        kinds = about or (named.args if named else ["embedded"])
        metafunc.parametrize("backend", kinds, indirect=True, scope="module")


@pytest.fixture(scope="session")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Postgres]:
    """A PostgreSQL server for this worker."""
    try:
        running = Postgres(tmp_path_factory.mktemp("postgres"), durable=False).start()
    except BackendMissing as error:
        pytest.skip(str(error))
    yield running
    running.stop()


@pytest.fixture(scope="session")
def objects(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ObjectStore]:
    """A process that speaks S3, for this worker."""
    running = ObjectStore(tmp_path_factory.mktemp("objects")).start()
    yield running
    running.stop()


@pytest.fixture(scope="module")
def backend(request: pytest.FixtureRequest) -> Backend:
    """What the servers of a test run on."""
    if request.param == "embedded":
        return Backend()
    if request.param == "objects":
        return Backend(objects=request.getfixturevalue("objects"))
    try:
        program("mosquitto", "mosquitto")
    except BackendMissing as error:
        pytest.skip(str(error))
    return Backend(request.getfixturevalue("postgres"))


@pytest.fixture(scope="module")
def server(backend: Backend, tmp_path_factory: pytest.TempPathFactory) -> Iterator[FleetServer]:
    """One server for a module's tests, which keep out of each other's way by names."""
    running = FleetServer(tmp_path_factory.mktemp("fleet") / "data", backend=backend).start()
    yield running
    assert running.stop() == 0, running.log.read_text()


@pytest.fixture
def own_server(backend: Backend, tmp_path: Path) -> Iterator[FleetServer]:
    """A server for one test alone."""
    running = FleetServer(tmp_path / "data", backend=backend).start()
    yield running
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
    from edgec.fleet.client.push import push_artifact

    def put(name: str, version: str = "1", target: str = "x86-64-v3") -> str:
        path = tmp_path / f"{name}-{version}-{target}.edge"
        make_artifact(path, name, version, target)
        with server.client() as client:
            return push_artifact(client, path, None, None, lambda *_: None).digest

    return put
