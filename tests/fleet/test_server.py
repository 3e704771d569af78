"""The server as a process: starting, stopping, taken ports, roles, the command line, the API's contract."""

from __future__ import annotations

import json
import os
import signal
import socket
import stat
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import httpx
import pytest

from edgec.fleet.store.database import Database
from tests import preloaded
from tests.fleet.artifacts import make_artifact
from tests.fleet.servers import Backend, FleetServer, wait_for
from tests.fleet.sim_device import SimDevice

pytestmark = pytest.mark.backends("embedded", "external")


def edgec(home: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """The command line as a user has it, with a home of its own."""
    return preloaded.run(*arguments, env=os.environ | {"HOME": str(home), "COLUMNS": "200"} | environment)


@pytest.mark.embedded
def test_starts_with_secrets_kept_and_stops_cleanly(tmp_path: Path) -> None:
    server = FleetServer(tmp_path / "data").start()
    assert stat.S_IMODE(Path(server.info["admin_token_file"]).stat().st_mode) == 0o600
    ready = tmp_path / "data-ready-1.json"
    assert json.loads(ready.read_text())["mqtt_port"] > 0
    assert httpx.get(f"{server.url}/readyz").json()["status"] == "ok"
    server.process.send_signal(signal.SIGINT)
    assert server.process.wait(60) == 0
    assert not ready.exists(), "a stale ready file would point into nowhere"
    assert not list((tmp_path / "data" / "uploads").iterdir())
    token = server.token
    server.restart()
    assert server.token == token
    assert not server.info["new_admin"]
    assert server.stop() == 0


DYING = """
import sys
from edgec.fleet.rollouts.engine import RolloutEngine
def die(*_): raise LookupError("no such thing")
RolloutEngine.tick = die
sys.argv = ["edgec", *sys.argv[1:]]
from edgec.cli.main import main
main()
"""


@pytest.mark.embedded
def test_a_worker_that_dies_takes_the_server_down_and_says_so(tmp_path: Path) -> None:
    command = [sys.executable, "-c", DYING, "fleet", "serve", "--data", str(tmp_path / "data"), "--port", "0"]
    env = os.environ | {"HOME": str(tmp_path)}
    ended = subprocess.run(
        [*command, "--mqtt-port", "0"], capture_output=True, text=True, env=env, timeout=120
    )
    assert ended.returncode != 0
    assert "LookupError: no such thing" in ended.stderr, "with a traceback, as this is our fault"
    assert "'rollouts' died" in ended.stderr


def test_a_group_may_name_very_many_devices(server: FleetServer) -> None:
    server.enroll("named-7")
    server.enroll("labelled-1", hall="north")
    with server.client() as client:
        many = {"devices": [f"named-{number}" for number in range(70_000)]}
        client.put("/groups/many", many | {"selector": {"labels": {"hall": "north"}}})
        client.put("/groups/none", {})
        found = {item["name"]: item["count"] for item in client.get("/groups")["items"]}
        assert (found["many"], found["none"]) == (2, 0)
        listed = client.get("/devices", group="many")["items"]
        assert [item["name"] for item in listed] == ["labelled-1", "named-7"]


@pytest.mark.embedded
def test_a_taken_port_or_folder_is_said_in_one_line(tmp_path: Path, own_server: FleetServer) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        for flags in (["--port", port, "--mqtt-port", "0"], ["--port", "0", "--mqtt-port", port]):
            answer = edgec(tmp_path, "fleet", "serve", "--data", str(tmp_path / "b"), *flags)
            assert answer.returncode == 1
            assert f"port {port} on 127.0.0.1 is taken" in answer.stderr
            assert "Traceback" not in answer.stderr
    answer = edgec(
        tmp_path, "fleet", "serve", "--data", str(own_server.data), "--port", "0", "--mqtt-port", "0"
    )
    assert answer.returncode == 1
    assert "another fleet server uses the folder" in answer.stderr
    answer = edgec(tmp_path, "fleet", "serve", "--data", str(tmp_path / "c"), "--mqtt", "http://x")
    assert "--mqtt" in answer.stderr
    answer = edgec(
        tmp_path,
        "fleet",
        "serve",
        "--data",
        str(tmp_path / "d"),
        "--port",
        "0",
        "--mqtt",
        "mqtt://127.0.0.1:1",
    )
    assert "no MQTT broker answers at 127.0.0.1:1" in answer.stderr


@pytest.mark.embedded
def test_the_command_line_goes_all_the_way(own_server: FleetServer, tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    nowhere = edgec(home, "devices", "--server", "http://127.0.0.1:1")
    assert (nowhere.returncode, "edgec fleet serve" in nowhere.stderr) == (3, True)
    assert edgec(home, "devices", "--server", own_server.url).returncode == 4, "no token, no list"
    assert edgec(home, "fleet", "login", own_server.url, "--token", own_server.token).returncode == 0
    assert stat.S_IMODE((home / ".config" / "edgec" / "fleet.toml").stat().st_mode) == 0o600
    made = json.loads(edgec(home, "fleet", "token", "create", "--json").stdout)
    body = {"token": made["token"], "device": "cli-1", "target": "x86-64-v3"}
    camera = SimDevice(httpx.post(f"{own_server.url}/api/v1/enroll", json=body).json()).start()
    make_artifact(tmp_path / "a.edge", "cli")
    pushed = json.loads(edgec(home, "push", str(tmp_path / "a.edge"), "--json").stdout)
    assert pushed["model"] == "cli"
    done = edgec(home, "deploy", "cli:1", "--to", "cli-1", "--wait")
    assert (done.returncode, "SUCCEEDED" in done.stdout) == (0, True), done.stderr
    assert camera.running["version"] == "1"
    assert json.loads(edgec(home, "devices", "--json").stdout)[0]["name"] == "cli-1"
    assert (
        json.loads(edgec(home, "devices", "show", "cli-1", "--json").stdout)["jobs"][0]["state"]
        == "SUCCEEDED"
    )
    assert "cli:1" in edgec(home, "fleet", "rollouts", "list").stdout
    keys = str(tmp_path / "keys")
    assert edgec(home, "fleet", "keys", "init", "--keys", keys).returncode == 0
    make_artifact(tmp_path / "b.edge", "cli", "2")
    assert edgec(home, "push", str(tmp_path / "b.edge")).returncode == 0
    refused = edgec(home, "deploy", "cli:2", "--to", "cli-1")
    assert (refused.returncode, "edgec fleet keys sign cli:2" in refused.stderr) == (4, True)
    assert edgec(home, "fleet", "keys", "sign", "cli:2", "--keys", keys).returncode == 0
    assert edgec(home, "deploy", "cli:2", "--to", "cli-1", "--wait").returncode == 0
    job = json.loads(edgec(home, "devices", "show", "cli-1", "--json").stdout)["jobs"][0]
    assert job["document"]["trust"]["path"] == "models/cli/2/x86-64-v3"
    assert edgec(home, "fleet", "keys", "rotate", "targets", "--keys", keys).returncode == 0
    assert "targets: 1 of" in edgec(home, "fleet", "keys", "show").stdout
    camera.stop()
    wrong = edgec(home, "deploy", "cli", "--to", "cli-1")
    assert (wrong.returncode, "MODEL:VERSION" in wrong.stderr) == (2, True)


def test_roles_are_kept_apart(server: FleetServer) -> None:
    with server.client() as admin:
        tokens = {
            role: admin.post("/access-tokens", {"name": f"role-{role}", "role": role})["token"]
            for role in ("viewer", "operator")
        }
    device = server.enroll("role-device")["registry"]["token"]
    expected = {
        ("GET", "/devices"): {"none": 401, "device": 403, "viewer": 200, "operator": 200},
        ("POST", "/enroll-tokens"): {"none": 401, "device": 403, "viewer": 403, "operator": 201},
        ("POST", "/access-tokens"): {"none": 401, "device": 403, "viewer": 403, "operator": 403},
        ("GET", "/audit"): {"none": 401, "device": 403, "viewer": 403, "operator": 403},
        ("PUT", "/trust/metadata"): {"none": 401, "device": 403, "viewer": 403, "operator": 403},
    }
    for (method, path), answers in expected.items():
        for who, status in answers.items():
            token = {"none": "", "device": device, **tokens}[who]
            headers = {"Authorization": f"Bearer {token}"} if token else {}
            answer = httpx.request(
                method, f"{server.url}/api/v1{path}", headers=headers, json={} if method != "GET" else None
            )
            assert answer.status_code == status, (method, path, who, answer.text)
            if status >= 400:
                assert answer.headers["content-type"] == "application/problem+json"
    with server.client() as admin:
        admin.delete("/access-tokens/role-viewer")
        gone = httpx.get(
            f"{server.url}/api/v1/devices", headers={"Authorization": f"Bearer {tokens['viewer']}"}
        )
        assert gone.status_code == 401
        assert any(line["action"] == "access-token.revoke" for line in admin.get("/audit")["items"])


def test_lists_have_pages_and_etags(server: FleetServer) -> None:
    for number in range(5):
        server.enroll(f"page-{number}")
    with server.client() as client:
        names = [row["name"] for row in client.pages("/devices", limit=2, search="page-")]
        assert names == [f"page-{number}" for number in range(5)]
        first = client.send("GET", "/api/v1/devices?search=page-")
        again = client.send(
            "GET", "/api/v1/devices?search=page-", headers={"If-None-Match": first.headers["etag"]}
        )
        assert (again.status_code, again.content) == (304, b"")
        assert list(client.pages("/devices", search="100%_")) == []
    bad = httpx.get(
        f"{server.url}/api/v1/rollouts?cursor=zzz", headers={"Authorization": f"Bearer {server.token}"}
    )
    assert (bad.status_code, bad.json()["title"]) == (400, "Bad cursor")


def test_an_upload_survives_kill_9_and_goes_on(own_server: FleetServer) -> None:
    import hashlib

    content = os.urandom(6_000_000)
    headers = {"Authorization": f"Bearer {own_server.token}"}
    place = httpx.post(f"{own_server.url}/v2/big/blobs/uploads/", headers=headers).headers["location"]
    answer = httpx.patch(own_server.url + place, content=content[:2_000_000], headers=headers)
    assert answer.headers["range"] == "0-1999999"

    def slowly() -> Any:
        for start in range(2_000_000, len(content), 100_000):
            if start == 4_000_000:
                own_server.kill()
            yield content[start : start + 100_000]

    with pytest.raises(httpx.HTTPError):
        httpx.patch(own_server.url + place, content=slowly(), headers=headers)
    own_server.restart()
    stands = int(httpx.get(own_server.url + place, headers=headers).headers["range"].partition("-")[2]) + 1
    assert stands >= 2_000_000
    rest = httpx.patch(
        own_server.url + place,
        content=content[stands:],
        headers=headers | {"Content-Range": f"{stands}-{len(content) - 1}"},
    )
    assert rest.status_code == 202
    digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
    assert httpx.put(own_server.url + place, params={"digest": digest}, headers=headers).status_code == 201
    assert httpx.get(f"{own_server.url}/v2/big/blobs/{digest}", headers=headers).content == content


def test_a_rollout_goes_on_after_kill_9(own_server: FleetServer, tmp_path: Path) -> None:
    from edgec.fleet.client.push import push_artifact

    path = tmp_path / "a.edge"
    make_artifact(path, "risen")
    devices = [SimDevice(own_server.enroll(f"risen-{i}")).start() for i in range(6)]
    first = threading.Event()
    with own_server.client() as client:
        push_artifact(client, path, None, None, lambda *_: None)
        for item in devices:
            ordinary = item.outcome
            item.outcome = lambda document, ordinary=ordinary: (first.set(), ordinary(document))[1]
        stages = [{"percent": 30}, {"percent": 100}]
        body = {
            "model": "risen",
            "version": "1",
            "scope": {"kind": "all", "name": ""},
            "plan": {"stages": stages},
        }
        number = client.post("/rollouts", body)["id"]
        assert first.wait(60)
        own_server.kill()
    own_server.restart()
    with own_server.client() as client:
        rollout = wait_for(lambda: (r := client.get(f"/rollouts/{number}"))["ended"] and r, 60, "the end")
        assert (rollout["state"], rollout["devices"]) == ("SUCCEEDED", {"SUCCEEDED": 6})
        jobs = [job for i in range(6) for job in client.get(f"/devices/risen-{i}/jobs")["items"]]
        assert len(jobs) == 6, "nobody was asked twice"
    for item in devices:
        item.stop()


def test_migrations_go_both_ways(backend: Backend, tmp_path: Path) -> None:
    from sqlalchemy import inspect

    from edgec.fleet.store.tables import Base

    url = f"sqlite:///{tmp_path / 'm.db'}"
    if backend.postgres is not None:
        url = backend.postgres.create(f"migrations-{os.getpid()}")
    database = Database(url)
    steps = ["head"]
    database.migrate()
    wanted = set(Base.metadata.tables)
    assert wanted <= set(inspect(database.engine).get_table_names())
    for name in wanted:
        described = {column["name"] for column in inspect(database.engine).get_columns(name)}
        assert described == set(Base.metadata.tables[name].columns.keys()), name
    database.migrate()
    while inspect(database.engine).get_table_names() != ["alembic_version"]:
        database.migrate("-1")
        steps.append("-1")
        assert len(steps) < 50
    database.migrate()
    database.migrate("base")
    assert inspect(database.engine).get_table_names() == ["alembic_version"]
    database.migrate()
    database.close()


def test_every_state_fits_its_column() -> None:
    """SQLite would take a longer text; PostgreSQL would not."""
    from edgec.fleet.rollouts.plan import MemberState, RolloutState
    from edgec.fleet.store.tables import Job, Member, Rollout
    from edgec.protocol.jobs import JobState

    for table, states in ((Rollout, RolloutState), (Member, MemberState), (Job, JobState)):
        assert max(len(state) for state in states) <= table.__table__.c.state.type.length
