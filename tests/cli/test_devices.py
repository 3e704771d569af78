"""`edgec devices`."""

from __future__ import annotations

import json

import httpx

from tests.cli.conftest import Operator
from tests.fleet.servers import FleetServer, wait_for
from tests.fleet.sim_device import SimDevice


def test_devices_are_listed_shown_accepted_revoked_and_deleted(
    operator: Operator, fleet: FleetServer
) -> None:
    made = json.loads(operator("fleet", "token", "create", "--hold", "--label", "line=seven", "--json"))
    body = {"token": made["token"], "device": "listed-1", "target": "rpi5"}
    assert httpx.post(f"{fleet.url}/api/v1/enroll", json=body).status_code in (201, 202)

    def one() -> dict[str, object]:
        [row] = json.loads(operator("devices", "list", "--search", "listed-", "--json"))
        return dict(row)

    assert (one()["name"], one()["target"], one()["admission"]) == ("listed-1", "rpi5", "pending")
    assert "listed-1 is accepted" in operator("devices", "accept", "listed-1")
    shown = json.loads(operator("devices", "show", "listed-1", "--json"))
    assert (shown["admission"], shown["labels"], shown["jobs"]) == ("accepted", {"line": "seven"}, [])
    assert "listed-1" in operator("devices", "list", "--state", "never")
    assert "listed-1 is revoked" in operator("devices", "revoke", "listed-1", "--yes")
    assert one()["admission"] == "revoked"
    assert "listed-1" in operator("devices", "list", "--state", "revoked")
    assert "listed-1 is deleted" in operator("devices", "delete", "listed-1", "--yes")
    assert json.loads(operator("devices", "list", "--search", "listed-1", "--json")) == []


def test_a_running_device_is_shown_with_its_stream(operator: Operator, fleet: FleetServer) -> None:
    camera = SimDevice(fleet.enroll("listed-2")).start()
    text = wait_for(
        lambda: "stream cam" in (t := operator("devices", "show", "listed-2")) and t, 60, "health"
    )
    assert "running, 24.5 fps, 2 dropped, 0 damaged, p50 8.0 ms" in text
    camera.stop()


def test_a_device_that_does_not_exist(operator: Operator) -> None:
    assert "no-such-device" in operator("devices", "show", "no-such-device", status=4)
    assert "no devices match" in operator("devices", "list", "--search", "no-such-device")


def test_without_sub_command_devices_are_listed(operator: Operator, fleet: FleetServer) -> None:
    fleet.enroll("listed-3")
    assert "listed-3" in {row["name"] for row in json.loads(operator("devices", "--json"))}
