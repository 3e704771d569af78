"""The routes of version 0.1 answer for one more version, and say what replaces them."""

from __future__ import annotations

from collections.abc import Callable

import httpx

from tests.fleet.captures.test_captures import jpeg, meta
from tests.fleet.servers import FleetServer, wait_for
from tests.fleet.sim_device import SimDevice

OLD = {
    "/api/v1/samples": "/api/v1/captures",
    "/api/v1/samples/usage": "/api/v1/captures/usage",
    "/api/v1/samples/export": "/api/v1/captures/export",
    "/api/v1/samples/review": "/api/v1/captures/review",
    "/api/v1/samples/{capture_id}": "/api/v1/captures/{capture_id}",
    "/api/v1/samples/{capture_id}/image": "/api/v1/captures/{capture_id}/image",
    "/api/v1/devices/{name}/samples": "/api/v1/devices/{name}/telemetry",
}


def test_every_old_route_is_marked_and_names_its_successor(server: FleetServer) -> None:
    paths = httpx.get(f"{server.url}/api/v1/openapi.json").json()["paths"]
    assert {path for path in paths if "/samples" in path} == set(OLD)
    for old, new in OLD.items():
        assert set(paths[old]) == set(paths[new]), old
        for verb, operation in paths[old].items():
            assert operation["deprecated"] is True, (verb, old)
            assert f"`{new.removeprefix('/api/v1')}`" in operation["description"]
            assert "deprecated" not in paths[new][verb]


def test_an_old_agent_and_an_old_client_are_served(server: FleetServer) -> None:
    access = server.enroll("old-1")
    image = jpeg()
    answer = httpx.post(
        f"{server.url}/api/v1/samples",
        files={"meta": (None, meta("old-1").encode()), "image": ("i.jpg", image, "image/jpeg")},
        headers={"Authorization": f"Bearer {access['registry']['token']}"},
    )
    assert answer.status_code == 201, answer.text
    number = answer.json()["id"]
    with server.client() as client:
        assert client.get(f"/samples/{number}") == client.get(f"/captures/{number}")
        assert client.get("/samples", device="old-1") == client.get("/captures", device="old-1")
        assert client.send("GET", f"/api/v1/samples/{number}/image").content == image
        new, old = client.get("/captures/usage"), client.get("/samples/usage")
        assert old.pop("samples") == new.pop("captures")
        assert old == new
        assert client.post("/samples/review", {"ids": [number], "review": {"state": "confirmed"}}) == {
            "reviewed": 1
        }
        assert client.get(f"/captures/{number}")["state"] == "confirmed"


def test_telemetry_is_found_under_both_names(server: FleetServer, device: Callable[..., SimDevice]) -> None:
    device("old-2").send_health(fps=5.5)
    with server.client() as client:
        wait_for(lambda: client.get("/devices/old-2/telemetry")["items"], 60, "telemetry")
        first = client.get("/devices/old-2/telemetry", limit=1000)["items"][0]
        assert client.get("/devices/old-2/samples", limit=1000)["items"][0] == first
