"""Sessions end, tokens expire and have scopes, and addresses that only fail are locked out; all of it is audited."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from edgec.fleet.access.limits import network
from edgec.fleet.errors import RefusedByServer
from tests import preloaded
from tests.fleet.artifacts import make_artifact
from tests.fleet.servers import FleetServer, wait_for

RULES = {
    "EDGEC_FLEET_LOCKOUT_FAILURES": "4",
    "EDGEC_FLEET_LOCKOUT_S": "6",
    "EDGEC_FLEET_SESSION_IDLE_S": "3",
    "EDGEC_FLEET_SESSION_S": "9",
    "EDGEC_FLEET_CONFIRMED_S": "2",
    "EDGEC_FLEET_METRICS_FROM": "10.1.0.0/16",
}


@pytest.fixture(scope="module")
def strict(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FleetServer]:
    """A server whose sessions and lock-outs are over in seconds."""
    running = FleetServer(tmp_path_factory.mktemp("strict") / "data", **RULES).start()
    yield running
    running.stop()


def audited(server: FleetServer) -> list[tuple[str, str, str]]:
    with server.client() as client:
        return [(line["action"], line["actor"], line["subject"]) for line in client.pages("/audit")]


def edgec(server: FleetServer, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"EDGEC_SERVER": server.url, "EDGEC_TOKEN": server.token, "NO_COLOR": "1"}
    return preloaded.run(*arguments, env=environment)


@pytest.mark.parametrize(
    ("kind", "path", "body", "refusal"),
    [
        ("sign-in", "/api/v1/session", {"token": "edgec_guess"}, 401),
        ("enrolment", "/api/v1/enroll", {"token": "enroll_guess", "device": "cam"}, 403),
        ("token", "/api/v1/me", None, 401),
    ],
)
def test_failures_lock_an_address_out_and_are_audited(
    strict: FleetServer, kind: str, path: str, body: dict[str, str] | None, refusal: int
) -> None:
    server = strict

    def attempt(source: str = "127.0.0.1") -> httpx.Response:
        headers = {"X-Forwarded-For": source}
        if body is None:
            return httpx.get(server.url + path, headers=headers | {"Authorization": "Bearer edgec_guess"})
        return httpx.post(server.url + path, json=body, headers=headers)

    assert [attempt().status_code for _ in range(6)] == [refusal] * 3 + [429] * 3
    assert 1 <= int(attempt().headers["retry-after"]) <= 7
    assert attempt("203.0.113.9").status_code == refusal, "another address is not locked out"
    lines = [line for line in audited(server) if line[0].startswith(kind)]
    assert [line[0] for line in lines] == [f"{kind}.{end}" for end in ("refused", "locked", *["refused"] * 4)]
    # The administrator at the same address still gets through, and the address after a while, too.
    assert server.client().get("/me")["role"] == "admin"
    wait_for(lambda: attempt().status_code == refusal, 30, "the end of the lock-out")


def test_an_ipv6_subscriber_is_one_address() -> None:
    assert network("2001:db8::1") == network("2001:db8::ffff:2") == "2001:db8::/64"
    assert network("::ffff:10.0.0.1") == network("10.0.0.1") == "10.0.0.1"


def test_sessions_end_when_idle_and_in_any_case(strict: FleetServer) -> None:
    server = strict
    own = {"Origin": server.url}
    idle, busy = httpx.Client(base_url=server.url), httpx.Client(base_url=server.url)
    for browser in (idle, busy):
        assert browser.post("/api/v1/session", json={"token": server.token}).status_code == 204
    began = time.monotonic()
    wait_for(lambda: idle.get("/api/v1/me").status_code == 401, 30, "the idle session to end")
    ended = time.monotonic() - began
    assert ended > 2, "looking on, as an open page does, keeps no session alive, and it does not end at once"
    busy.close()
    busy = httpx.Client(base_url=server.url)
    assert busy.post("/api/v1/session", json={"token": server.token}).status_code == 204
    began = time.monotonic()
    while busy.post("/api/v1/session/active", headers=own).status_code == 204:
        assert time.monotonic() - began < 60
        time.sleep(0.5)
    assert time.monotonic() - began > 5, "someone who is active stays"


def test_what_cannot_be_taken_back_needs_a_proof_of_presence(strict: FleetServer) -> None:
    server = strict
    own = {"Origin": server.url}
    server.enroll("doomed")
    browser = httpx.Client(base_url=server.url, headers=own)
    assert browser.post("/api/v1/session", json={"token": server.token}).status_code == 204
    wait_for(lambda: browser.post("/api/v1/registry/gc").status_code == 403, 30, "the proof to be too old")
    refused = browser.delete("/api/v1/devices/doomed")
    assert (refused.status_code, refused.json()["type"]) == (403, "confirm")
    assert browser.post("/api/v1/session/confirm", json={"token": "edgec_other"}).status_code == 401
    assert browser.post("/api/v1/session/confirm", json={"token": server.token}).status_code == 204
    assert browser.delete("/api/v1/devices/doomed").status_code == 204
    actions = [line[0] for line in audited(server)]
    assert {"session.confirm", "confirmation.refused", "device.delete"} <= set(actions)
    browser.close()
    assert edgec(server, "fleet", "access", "revoke", "x").stderr.count("--yes") == 1, (
        "the command line asks, too"
    )


def test_tokens_expire_and_are_restricted(server: FleetServer) -> None:
    with server.client() as admin:
        made = admin.post(
            "/access-tokens", {"name": "ci", "role": "operator", "scopes": ["registry:write", "models:read"]}
        )
        assert 89 * 86400 < made["expires_at"] - time.time() < 90 * 86400 + 60, "every token expires"
        for bad in ({"valid_s": 367 * 86400}, {"valid_s": None}, {"scopes": ["everything:write"]}):
            with pytest.raises(RefusedByServer):
                admin.post("/access-tokens", {"name": "bad", **bad})
        brief = admin.post("/access-tokens", {"name": "brief", "valid_s": 0.2})["token"]
    machine = server.client(made["token"])
    assert machine.get("/me")["scopes"] == ["models:read", "registry:write"]
    assert machine.get("/models")["items"] is not None
    assert machine.send("GET", "/v2/").status_code == 200
    for method, path in (("GET", "/devices"), ("POST", "/enroll-tokens"), ("DELETE", "/models/a/1")):
        with pytest.raises(RefusedByServer, match="scope"):
            machine.send(method, f"/api/v1{path}", json={} if method == "POST" else None)
    assert httpx.post(f"{server.url}/api/v1/session", json={"token": made["token"]}).status_code == 401
    wait_for(
        lambda: (
            httpx.get(f"{server.url}/api/v1/me", headers={"Authorization": f"Bearer {brief}"}).status_code
            == 401
        )
    )


def test_the_areas_of_scopes_are_those_of_the_api(server: FleetServer) -> None:
    from edgec.fleet.access.identity import AREAS, OPEN_AREAS

    routes = httpx.get(f"{server.url}/api/v1/openapi.json").json()["paths"].values()
    tags = {operation["tags"][0] for route in routes for operation in route.values()}
    assert tags - {"deprecated"} == {*AREAS, *OPEN_AREAS} - {"registry"}


def test_pushes_are_audited_and_the_log_is_exported_and_verified(server: FleetServer, tmp_path: Path) -> None:
    path = tmp_path / "a.edge"
    make_artifact(path, "logged")
    assert edgec(server, "push", str(path)).returncode == 0
    [push] = [line for line in audited(server) if line[0] == "registry.push" and "logged" in line[2]]
    assert push[1:] == ("admin", "models/logged:1-x86-64-v3") or push[2].startswith("models/logged:")
    checked: dict[str, Any] = json.loads(edgec(server, "fleet", "audit", "verify", "--json").stdout)
    assert checked["intact"]
    exported = tmp_path / "audit.jsonl"
    assert edgec(server, "fleet", "audit", "export", str(exported)).returncode == 0
    lines = [json.loads(line) for line in exported.read_text().splitlines()]
    assert {"at", "actor", "action", "subject", "detail", "hash"} == set(lines[0])
    again = edgec(server, "fleet", "audit", "verify", "--since", checked["head"])
    assert (again.returncode, "intact" in again.stdout) == (0, True), again.stderr
    lines[1]["actor"] = "nobody"
    exported.write_text("".join(json.dumps(line) + "\n" for line in lines))
    forged = edgec(server, "fleet", "audit", "verify", str(exported))
    assert (forged.returncode, "entry 2" in forged.stderr) == (1, True)
    wrong = edgec(server, "fleet", "audit", "verify", "--since", f"1:{'0' * 64}")
    assert (wrong.returncode, "rewritten" in wrong.stderr) == (1, True)


def test_metrics_are_for_the_networks_of_the_settings_or_a_token(strict: FleetServer) -> None:
    server = strict

    def status(source: str, token: str = "") -> int:
        headers = {"X-Forwarded-For": source} | ({"Authorization": f"Bearer {token}"} if token else {})
        return httpx.get(f"{server.url}/metrics", headers=headers).status_code

    with server.client() as admin:
        scraper = admin.post("/access-tokens", {"name": "scraper", "scopes": ["operations:read"]})["token"]
        other = admin.post("/access-tokens", {"name": "other", "scopes": ["models:read"]})["token"]
    assert (status("10.1.2.3"), status("10.2.2.3"), status("127.0.0.1")) == (200, 401, 401)
    assert (status("10.2.2.3", scraper), status("10.2.2.3", other)) == (200, 403)


def test_the_data_folder_is_its_owners_alone(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir(mode=0o755)
    server = FleetServer(data, "--tls").start()
    found = [data, *data.rglob("*")]
    assert {"ca.pem", "ca.pem.copy"} <= {path.name for path in found}
    for path in found:
        if not path.is_symlink():
            assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0, path
    server.stop()


def test_a_lost_administrator_gets_a_new_token_on_the_servers_machine(strict: FleetServer) -> None:
    server = strict
    old = server.token
    done = edgec(server, "fleet", "access", "renew-admin", "--data", str(server.data))
    assert done.returncode == 0, done.stderr
    assert server.token != old
    with pytest.raises(RefusedByServer):
        server.client(old).get("/me")
    assert server.client().get("/me")["role"] == "admin"
    assert ("access-token.renew", "console", "admin") in audited(server)
