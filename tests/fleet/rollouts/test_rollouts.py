"""Rollouts through a real server, a real broker and devices that speak the real protocol."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from edgec.fleet.client.connection import FleetClient
from edgec.fleet.errors import RefusedByServer
from edgec.protocol.jobs import JobState
from tests.fleet.servers import FleetServer, wait_for
from tests.fleet.sim_device import SimDevice

pytestmark = pytest.mark.backends("embedded", "external")

Make = Callable[..., SimDevice]
Push = Callable[..., str]


def start(client: FleetClient, model: str, version: str, kind: str, name: str, **plan: Any) -> int:
    body = {"model": model, "version": version, "scope": {"kind": kind, "name": name}, "plan": plan}
    return int(client.post("/rollouts", body)["id"])


def ended(client: FleetClient, number: int) -> dict[str, Any]:
    return dict(
        wait_for(lambda: (r := client.get(f"/rollouts/{number}"))["ended"] and r, 40, f"rollout {number}")
    )


def test_a_version_reaches_a_device_and_shows(server: FleetServer, device: Make, push: Push) -> None:
    digest = push("one")
    camera = device("one-1")
    with server.client() as client:
        rollout = ended(client, start(client, "one", "1", "device", "one-1"))
        assert (rollout["state"], rollout["devices"]) == ("SUCCEEDED", {"SUCCEEDED": 1})
        assert camera.running == {"model": "one", "version": "1", "digest": digest}
        shown = wait_for(lambda: (d := client.get("/devices/one-1"))["version"] == "1" and d)
        assert shown["state"] == "online"
        assert not shown["drift"]
        assert shown["fps"] == pytest.approx(24.5)
        job = client.get("/devices/one-1/jobs")["items"][0]
        assert job["state"] == "SUCCEEDED"
        assert job["document"]["repository"] == "models/one"
        assert job["document"]["manifest_digest"] == digest


def test_each_device_gets_the_artifact_of_its_target(server: FleetServer, device: Make, push: Push) -> None:
    intel, arm = push("two", "1", "x86-64-v3"), push("two", "1", "rpi5")
    a, b, c = device("two-a"), device("two-b", "rpi5"), device("two-c", "x86-64-v4")
    device("two-d", "x86-64-v2")
    with server.client() as client:
        client.put("/groups/two", {"devices": ["two-a", "two-b", "two-c", "two-d"]})
        rollout = ended(client, start(client, "two", "1", "group", "two"))
        assert rollout["devices"] == {"SUCCEEDED": 3, "SKIPPED": 1}
        # A v4 machine runs v3 code; a v2 machine cannot.
        assert (a.running["digest"], b.running["digest"], c.running["digest"]) == (intel, arm, intel)
        skipped = client.get(f"/rollouts/{rollout['id']}/devices", state="SKIPPED")["items"]
        assert [(m["device"], m["detail"]) for m in skipped] == [("two-d", "no artifact for x86-64-v2")]


def test_a_bad_version_stops_and_those_updated_go_back(server: FleetServer, device: Make, push: Push) -> None:
    push("three", "1")
    push("three", "2")
    devices = [device(f"three-{i}", line="a") for i in range(4)]
    with server.client() as client:
        client.put("/groups/three", {"selector": {"labels": {"line": "a"}}})
        assert ended(client, start(client, "three", "1", "group", "three"))["state"] == "SUCCEEDED"
        first: list[str] = []

        def fails_after_first(name: str) -> Callable[[dict[str, Any]], JobState]:
            def outcome(document: dict[str, Any]) -> JobState:
                if document["version"] == "2":
                    first.append(name)
                    return JobState.SUCCEEDED if len(first) == 1 else JobState.FAILED
                return JobState.SUCCEEDED

            return outcome

        for item in devices:
            item.outcome = fails_after_first(item.name)
        stages = [{"percent": 25}, {"percent": 50}, {"percent": 100}]
        rollout = ended(client, start(client, "three", "2", "group", "three", stages=stages))
        assert rollout["state"] == "ROLLED_BACK"
        assert "1 of 2 devices failed" in rollout["reason"]
        assert len(first) == 2, "the third stage was never started"
        assert {item.running["version"] for item in devices} == {"1"}
        members = {m["device"]: m["state"] for m in client.get(f"/rollouts/{rollout['id']}/devices")["items"]}
        assert members[first[0]] == "REVERTED"
        assert members[first[1]] == "FAILED"


def test_pause_holds_and_resume_goes_on(server: FleetServer, device: Make, push: Push) -> None:
    push("four")
    devices = [device(f"four-{i}") for i in range(2)]
    with server.client() as client:
        client.put("/groups/four", {"devices": [d.name for d in devices]})
        stages = [{"percent": 50}, {"percent": 100, "approval": True}]
        number = start(client, "four", "1", "group", "four", stages=stages)
        wait_for(lambda: client.get(f"/rollouts/{number}")["state"] == "AWAITING_APPROVAL")
        assert sum(d.running["model"] == "four" for d in devices) == 1
        with pytest.raises(RefusedByServer, match="cannot pause"):
            client.post(f"/rollouts/{number}/pause")
        client.post(f"/rollouts/{number}/approve")
        assert ended(client, number)["state"] == "SUCCEEDED"
        assert all(d.running["model"] == "four" for d in devices)
        with pytest.raises(RefusedByServer, match="cannot resume"):
            client.post(f"/rollouts/{number}/resume")


def test_a_silent_device_does_not_keep_a_rollout_open(server: FleetServer, device: Make, push: Push) -> None:
    push("five")
    server.enroll("five-off")
    with server.client() as client:
        rollout = ended(client, start(client, "five", "1", "device", "five-off", job_timeout_s=1))
        assert rollout["state"] == "FAILED"
        assert "none of 1 devices" in rollout["reason"]
        stuck = device("five-stuck")
        stuck.outcome = lambda _document: JobState.IN_PROGRESS
        rollout = ended(client, start(client, "five", "1", "device", "five-stuck", deadline_s=1.5))
        assert rollout["state"] == "FAILED"
        assert "deadline" in rollout["reason"]
        assert client.get("/devices/five-stuck/jobs")["items"][0]["state"] == "CANCELED"
        shown = client.get("/devices/five-stuck")
        assert not shown["drift"], "what failed leaves no wish behind"


def test_abort_takes_back_what_was_updated(server: FleetServer, device: Make, push: Push) -> None:
    push("six", "1")
    push("six", "2")
    devices = [device(f"six-{i}") for i in range(2)]
    with server.client() as client:
        client.put("/groups/six", {"devices": [d.name for d in devices]})
        ended(client, start(client, "six", "1", "group", "six"))
        stages = [{"count": 1}, {"percent": 100, "approval": True}]
        number = start(client, "six", "2", "group", "six", stages=stages)
        wait_for(lambda: client.get(f"/rollouts/{number}")["state"] == "AWAITING_APPROVAL")
        with pytest.raises(RefusedByServer, match="busy"):
            start(client, "six", "1", "device", devices[0].name)
        client.post(f"/rollouts/{number}/abort", take_back="true")
        assert ended(client, number)["state"] == "ROLLED_BACK"
        assert {d.running["version"] for d in devices} == {"1"}


def test_a_device_that_joins_late_obeys_the_stages(server: FleetServer, device: Make, push: Push) -> None:
    push("seven")
    device("seven-0", line="seven")
    with server.client() as client:
        client.put("/groups/seven", {"selector": {"labels": {"line": "seven"}}})
        stages = [{"count": 1}, {"percent": 100, "approval": True}]
        number = start(client, "seven", "1", "group", "seven", stages=stages)
        wait_for(lambda: client.get(f"/rollouts/{number}")["state"] == "AWAITING_APPROVAL")
        late = device("seven-1", line="seven")
        wait_for(lambda: len(client.get(f"/rollouts/{number}/devices")["items"]) == 2)
        assert late.running["model"] == ""
        client.post(f"/rollouts/{number}/approve")
        assert ended(client, number)["devices"] == {"SUCCEEDED": 2}
        assert late.running["model"] == "seven"


def test_what_cannot_be_rolled_out_is_refused_with_the_reason(server: FleetServer, push: Push) -> None:
    push("eight", "1", "rpi5")
    server.enroll("eight-0", "x86-64-v3")
    with server.client() as client:
        with pytest.raises(RefusedByServer, match="edgec push"):
            start(client, "eight", "99", "device", "eight-0")
        with pytest.raises(RefusedByServer, match="exists only for rpi5; the devices are x86-64-v3"):
            start(client, "eight", "1", "device", "eight-0")
        with pytest.raises(RefusedByServer, match="no device called 'nobody'"):
            start(client, "eight", "1", "device", "nobody")
        with pytest.raises(RefusedByServer, match="percentages of stages must not decrease"):
            start(client, "eight", "1", "device", "eight-0", stages=[{"percent": 50}, {"percent": 10}])
