"""Every operation that the API describes, called with what its schema allows and with what it does not."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from hypothesis.errors import Unsatisfiable

from tests.fleet.captures.test_captures import jpeg, meta, send
from tests.fleet.servers import FleetServer
from tests.fleet.sim_device import SimDevice

FULL = 507
"""A quota that is used up: an answer, not a failure."""
KNOWN = {
    "name": "fuzzed", "model": "fuzz", "version": "1", "target": "x86-64-v3", "rollout_id": 1, "capture_id": 1,
    "experiment_id": 1, "shadow": "config", "action": "pause", "token_id": 1, "job_id": "update-1",
}  # fmt: skip
PARTS = 8
"""The long test asks an eighth of the operations at a time, so that it can be run in pieces."""
LEFT_OUT = {
    "DELETE /api/v1/devices/{name}": "would take away what the others find",
    "DELETE /api/v1/models/{model}/{version}": "would take away what the others find",
}


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FleetServer]:
    """A server that has one of everything."""
    from edgec.fleet.client.push import push_artifact
    from tests.fleet.artifacts import make_artifact

    running = FleetServer(tmp_path_factory.mktemp("fuzz") / "data").start()
    access = running.enroll("fuzzed")
    camera = SimDevice(access).start()
    camera.send_event()
    path = tmp_path_factory.mktemp("artifact") / "fuzz.edge"
    make_artifact(path, "fuzz", "1")
    with running.client() as client:
        push_artifact(client, path, None, None, lambda *_: None)
        scope = {"kind": "device", "name": "fuzzed"}
        stages = {"stages": [{"percent": 100, "approval": True}]}
        client.post("/rollouts", {"model": "fuzz", "version": "1", "scope": scope, "plan": stages})
        client.post("/experiments", {"model": "fuzz", "version": "1", "slot": "m", "scope": scope})
        client.put("/groups/fuzzed", {"devices": ["fuzzed"], "selector": {"target": "x86-64-v3"}})
    assert send(running, access["registry"]["token"], meta("fuzzed"), jpeg()).status_code == 201
    yield running
    camera.stop()
    assert running.stop() == 0, running.log.read_text()
    text = running.log.read_text()
    assert "Traceback" not in text, text[-3000:]


def check(answer: Any, label: str) -> None:
    """What every answer keeps to."""
    status = answer.status_code
    assert status < 500 or status == FULL, f"{label} answered {status}: {answer.text[:300]}"
    if status >= 400:
        kind = answer.headers["content-type"]
        assert "application/problem+json" in kind, (label, status, kind)
        body = answer.json()
        assert body["status"] == status
        assert body["title"], label


def call(
    server: FleetServer,
    session: requests.Session,
    operation: Any,
    mode: Any,
    examples: int,
    cases: Counter[str],
) -> None:
    """Call one operation with generated requests."""

    @settings(
        max_examples=examples, deadline=None, derandomize=True, database=None, phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(operation.as_strategy(generation_mode=mode), st.booleans())
    def once(case: Any, known: bool) -> None:
        # Half of the cases meet something that is there, so that they come further than its 404.
        if known and case.path_parameters:
            case.path_parameters = {key: KNOWN.get(key, value) for key, value in case.path_parameters.items()}
        cases[operation.label] += 1
        headers = {"Authorization": f"Bearer {server.token}"}
        check(case.call(base_url=server.url, session=session, headers=headers, timeout=30), operation.label)

    once()


def fuzz(server: FleetServer, examples: int, part: slice = slice(None)) -> Counter[str]:
    """Call each of `part` of the operations `examples` times with legal and as often with illegal requests; cases
    by operation."""
    schema = schemathesis.openapi.from_url(f"{server.url}/api/v1/openapi.json")
    cases: Counter[str] = Counter()
    broken: list[str] = []
    session = requests.Session()
    for result in [*schema.get_all_operations()][part]:
        operation = result.ok()
        if operation.label not in LEFT_OUT:
            for mode in (schemathesis.GenerationMode.POSITIVE, schemathesis.GenerationMode.NEGATIVE):
                try:
                    call(server, session, operation, mode, examples, cases)
                except Unsatisfiable:  # some operations have no illegal request
                    continue
                except AssertionError as error:
                    broken.append(str(error)[:500])
    session.close()
    assert not broken, "\n\n".join(broken)
    return cases


def test_no_request_breaks_the_api(filled: FleetServer, record_property: Any) -> None:
    cases = fuzz(filled, 1)
    record_property("cases", sum(cases.values()))
    assert len(cases) >= 45, sorted(cases)
    assert sum(cases.values()) >= 80, cases


@pytest.mark.long
@pytest.mark.parametrize("part", range(PARTS))
def test_no_request_of_many_breaks_the_api(filled: FleetServer, record_property: Any, part: int) -> None:
    cases = fuzz(filled, 100, slice(part, None, PARTS))
    record_property("cases", sum(cases.values()))
    print(f"{sum(cases.values())} cases over {len(cases)} operations")
    assert sum(cases.values()) >= 5000 / PARTS / 2, "operations differ in how many requests they have"


ROLES = ("nobody", "device", "viewer", "operator", "admin")
OPEN = {
    "POST /api/v1/enroll", "POST /api/v1/session", "DELETE /api/v1/session", "GET /healthz", "GET /readyz",
    "GET /api/v1/ca/certificate", "GET /api/v1/ca/revoked", "POST /api/v1/certificates/renew",
    "GET /metrics", "GET /tuf/metadata/{name}", "GET /api/v1/oidc/start", "GET /api/v1/oidc/callback",
}  # fmt: skip


def needed(label: str) -> str:
    """The weakest role that an operation is for, from what it does: looking, changing, handing out access."""
    # Routes by their old names need what the present ones need.
    label = label.replace("/api/v1/samples", "/api/v1/captures")
    method, path = label.split(" ", 1)
    if label == "POST /api/v1/captures":
        return "device"
    if label.startswith("POST /api/v1/session/"):  # Every browser keeps its own session.
        return "viewer"
    admin = (
        "/access-tokens",
        "/mqtt-users",
        "/audit",
        "/trust/metadata",
        "/registry/gc",
        "/certificates/{serial}",
    )
    if any(part in path for part in admin):
        return "admin"
    if (
        method != "GET"
        or path.endswith(("/enroll-tokens", "/certificates"))
        or path.endswith(("/captures/export", "/detections/export"))  # much at once
    ):
        return "operator"
    return "viewer"


def test_every_route_keeps_to_its_role(filled: FleetServer) -> None:
    """Each operation with each kind of token: weaker ones get 401 or 403, sufficient ones neither."""
    with filled.client() as client:
        schema = client.send("GET", "/api/v1/openapi.json").json()
        tokens = {"admin": filled.token, "nobody": "", "device": filled.enroll("roles")["registry"]["token"]}
        for role in ("viewer", "operator"):
            tokens[role] = client.post("/access-tokens", {"name": f"role-{role}", "role": role})["token"]
    asked = 0
    http = httpx.Client(base_url=filled.url, timeout=30)
    odd: list[str] = []
    for path, methods in schema["paths"].items():
        for method in methods:
            label = f"{method.upper()} {path}"
            if label in OPEN or label in LEFT_OUT:
                continue
            least = ROLES.index(needed(label))
            for rank, role in enumerate(ROLES):
                address = path
                for key in KNOWN:
                    # Nothing is called so: a request that is let through changes nothing.
                    address = address.replace(
                        "{" + key + "}", "999999" if key.endswith("_id") else "no-such-thing"
                    )
                headers = {"Authorization": f"Bearer {tokens[role]}"} if tokens[role] else {}
                body = {"nothing": "such"} if method in ("post", "put", "patch") else None
                answer = http.request(method, address, headers=headers, json=body, timeout=30)
                asked += 1
                refused = answer.status_code in (401, 403)
                allowed = rank >= least if needed(label) != "device" else role == "device"
                if refused == allowed:
                    odd.append(f"{label} as {role}: {answer.status_code}, meant for {needed(label)}")
    http.close()
    assert not odd, "\n".join(odd)
    assert asked >= 200


def test_changes_are_in_the_audit_log_and_looking_is_not(filled: FleetServer) -> None:
    token = filled.enroll("auditor")["registry"]["token"]
    number = send(filled, token, meta("auditor"), jpeg(seed=5)).json()["id"]
    with filled.client() as client:
        before = client.get("/audit", limit=1)["items"]
        for path in ("/devices", "/rollouts", "/captures", "/experiments", "/groups", "/models", "/overview"):
            client.get(path)
        assert client.get("/audit", limit=1)["items"] == before
        client.put("/groups/audited", {"devices": []})
        client.send("PATCH", f"/api/v1/captures/{number}", json={"state": "confirmed"})
        client.delete("/groups/audited")
        lines = client.get("/audit", limit=3)["items"]
        assert [line["action"] for line in lines] == ["group.delete", "capture.confirmed", "group.put"]
        assert {line["actor"] for line in lines} == {"admin"}
        assert client.get("/audit", search="audited")["items"][0]["subject"] == "audited"
        assert not client.get("/audit", search="100%_nothing")["items"]


@pytest.mark.parametrize(
    "header", [b"Basic \xe9", b"Basic !!", b"Bearer \xff", b"Basic " + b"A" * 4000, b"", b"Other x"]
)
def test_a_broken_credential_is_no_credential(filled: FleetServer, header: bytes) -> None:
    answer = httpx.get(f"{filled.url}/api/v1/me", headers={b"Authorization": header})
    assert answer.status_code == 401
    check(answer, "me")


LISTS = (
    "/devices",
    "/models",
    "/rollouts",
    "/captures",
    "/experiments",
    "/audit",
    "/groups",
    "/access-tokens",
)


@pytest.mark.parametrize("path", LISTS)
def test_lists_have_pages_and_etags(filled: FleetServer, path: str) -> None:
    headers = {"Authorization": f"Bearer {filled.token}"}
    first = httpx.get(f"{filled.url}/api/v1{path}", headers=headers)
    assert set(first.json()) >= {"items", "next"}
    again = httpx.get(
        f"{filled.url}/api/v1{path}", headers=headers | {"If-None-Match": first.headers["etag"]}
    )
    assert (again.status_code, again.content) == (304, b"")
    rng = random.Random(path)
    for cursor in ("!", "%00", "A" * 513, str(rng.random())):
        answer = httpx.get(f"{filled.url}/api/v1{path}", headers=headers, params={"cursor": cursor})
        check(answer, path)
