"""Devices with several models through a real server: who is touched, what is wanted, and what is said."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import paho.mqtt.client as mqtt
import pytest

from edgec.fleet.client.connection import FleetClient
from edgec.fleet.errors import RefusedByServer
from edgec.protocol.codec import encode
from edgec.protocol.jobs import JobState, JobUpdate
from edgec.protocol.status import Health, ModelHealth, StreamHealth
from tests import preloaded
from tests.fleet.servers import FleetServer, wait_for
from tests.fleet.sim_device import SimDevice

pytestmark = pytest.mark.backends("embedded", "external")
Push = Callable[..., str]


class TwoModels(SimDevice):
    """A device with named slots, which fails updates that `fails` names with its reason."""

    def __init__(self, access: dict[str, Any], slots: list[str]) -> None:
        super().__init__(access)
        self.slots: dict[str, dict[str, Any]] = {slot: {} for slot in slots}
        self.fails: dict[str, str] = {}
        self.outcome = self.install

    def install(self, document: dict[str, Any]) -> JobState:
        if document["operation"] == "rollback":
            return JobState.FAILED
        slot = document.get("slot") or document["model"]
        if slot not in self.slots:
            self.why = f"this device has no slot for the model {document['model']}"
            return JobState.REJECTED
        if why := self.fails.get(f"{document['model']}:{document['version']}"):
            self.why = why
            return JobState.FAILED
        self.why = "the new model runs"
        self.slots[slot] = {
            "name": document["model"], "version": document["version"], "manifest_digest": document["manifest_digest"],
        }  # fmt: skip
        return JobState.SUCCEEDED

    why = ""

    def _update(self, job_id: str, state: JobState) -> None:
        update = JobUpdate(state=state, details={"message": self.why if state.terminal else ""})
        self.mqtt.publish(self.topics.job_update(job_id), encode(update), 1)

    def send_health(self, **numbers: Any) -> mqtt.MQTTMessageInfo:
        models = [
            ModelHealth(slot=slot, state="running" if model else "absent", **model)
            for slot, model in self.slots.items()
        ]
        health = Health(
            boot_id=self.boot, session_seq=self.seq, time=datetime.now(UTC), models=models,
            streams=[StreamHealth(name="cam", state="running", model=next(iter(self.slots), ""))],
        )  # fmt: skip
        return self.mqtt.publish(self.topics.health, encode(health), 1)


@pytest.fixture
def devices(server: FleetServer) -> Any:
    made: list[TwoModels] = []

    def make(name: str, *slots: str) -> TwoModels:
        made.append(TwoModels(server.enroll(name), list(slots)))
        made[-1].start()
        with server.client() as client:
            wait_for(lambda: len(client.get(f"/devices/{name}")["models"]) == len(slots), what="its slots")
        return made[-1]

    yield make
    for item in made:
        item.stop()


def roll(client: FleetClient, model: str, version: str, scope: dict[str, str], **more: Any) -> dict[str, Any]:
    number = client.post("/rollouts", {"model": model, "version": version, "scope": scope} | more)["id"]
    return dict(
        wait_for(lambda: (r := client.get(f"/rollouts/{number}"))["ended"] and r, 60, f"rollout {number}")
    )


def slots(client: FleetClient, name: str) -> dict[str, dict[str, Any]]:
    return {one["slot"]: one for one in client.get(f"/devices/{name}")["models"]}


def edgec(server: FleetServer, *arguments: str) -> subprocess.CompletedProcess[str]:
    return preloaded.run(*arguments, "--server", server.url, "--token", server.token)


def test_two_models_are_rolled_out_side_by_side(server: FleetServer, devices: Any, push: Push) -> None:
    for name in ("eyes", "ears"):
        push(name, "1")
        push(name, "2")
    camera = devices("both", "eyes", "ears")
    to = {"kind": "device", "name": "both"}
    with server.client() as client:
        for model in ("eyes", "ears"):
            assert roll(client, model, "1", to)["state"] == "SUCCEEDED"
        camera.fails["eyes:2"] = "the new model is 9.1 times slower (81.2 ms)"
        failed = roll(client, "eyes", "2", to)
        assert (failed["state"], failed["progress"]) == ("FAILED", 0.0)
        assert failed["reason"].endswith("(both: the new model is 9.1 times slower (81.2 ms))")
        assert roll(client, "ears", "2", to)["state"] == "SUCCEEDED"
        shown = wait_for(lambda: (s := slots(client, "both"))["ears"]["version"] == "2" and s)
        assert (shown["eyes"]["version"], shown["eyes"]["desired"]["version"]) == ("1", "1"), (
            "the wish went back"
        )
        assert "9.1 times slower" in shown["eyes"]["reason"]
        assert not client.get("/devices/both")["drift"]
        assert client.get("/devices", state="drift")["items"] == []
        for model, version in (("eyes", "1"), ("ears", "2")):
            found = client.get("/devices", model=model, version=version)["items"]
            assert [one["name"] for one in found] == ["both"]
    listed = edgec(server, "devices").stdout
    assert "eyes eyes:1" in listed
    assert "ears ears:2" in listed
    shown = edgec(server, "devices", "show", "both").stdout
    assert "slot eyes: eyes:1, running (rollout" in shown
    ended = edgec(server, "deploy", "eyes:2", "--to", "both", "--wait")
    assert ended.returncode == 5
    assert "both/eyes failed: the new model is 9.1 times slower" in ended.stdout
    number = failed["id"]
    assert (
        f"rollout {number} of eyes:2 is FAILED: 0 of 1"
        in edgec(server, "fleet", "rollouts", "show", str(number)).stdout
    )


def test_a_mixed_group_is_touched_where_the_model_has_a_place(
    server: FleetServer, devices: Any, push: Push
) -> None:
    push("mixed", "1")
    push("other", "1")
    a, b, c = devices("mix-a", "mixed"), devices("mix-b", "other"), devices("mix-c", "left", "right")
    with server.client() as client:
        assert roll(client, "other", "1", {"kind": "device", "name": "mix-b"})["state"] == "SUCCEEDED"
        client.put("/groups/mix", {"devices": ["mix-a", "mix-b", "mix-c"]})
        group = {"kind": "group", "name": "mix"}
        ended = roll(client, "mixed", "1", group)
        assert (ended["state"], ended["devices"]) == ("SUCCEEDED", {"SUCCEEDED": 1, "SKIPPED": 2})
        assert ended["reason"] == "1 device updated, 2 left out as it has no place"
        members = {m["device"]: m for m in client.get(f"/rollouts/{ended['id']}/devices")["items"]}
        assert members["mix-b"]["detail"] == "no slot for it; it has other (other:1)"
        assert members["mix-c"]["detail"] == "no slot for it; it has left (empty), right (empty)"
        assert a.slots["mixed"]["name"] == "mixed"
        assert b.slots["other"]["name"] == "other"
        ended = roll(client, "mixed", "1", group, slot="right")
        assert ended["devices"] == {"SUCCEEDED": 1, "SKIPPED": 2}
        assert c.slots["right"]["version"] == "1"
        client.put("/groups/mix-b", {"devices": ["mix-b"]})
        with pytest.raises(RefusedByServer, match=r"No device has a place for mixed: mix-b: no slot for it"):
            roll(client, "mixed", "1", {"kind": "group", "name": "mix-b"})


def test_a_slot_that_leaves_takes_its_wish_with_it(server: FleetServer, devices: Any, push: Push) -> None:
    push("leaves", "1")
    camera = devices("leaver", "leaves", "spare")
    with server.client() as client:
        assert roll(client, "leaves", "1", {"kind": "device", "name": "leaver"})["state"] == "SUCCEEDED"
        del camera.slots["leaves"]
        camera.send_health()
        wait_for(lambda: list(slots(client, "leaver")) == ["spare"])
        camera.slots["leaves"] = {}
        camera.send_health()
        shown = wait_for(lambda: (s := slots(client, "leaver")).get("leaves") and s)
        assert shown["leaves"]["desired"] is None
        assert not client.get("/devices/leaver")["drift"]


def test_an_old_agent_that_chooses_its_slot_is_listed_not_failed(
    server: FleetServer, devices: Any, push: Push
) -> None:
    """Agents from before report no slots while nothing runs, and reject a job with a sentence only."""
    push("aged", "1")
    old = devices("old-agent")
    with server.client() as client:
        ended = roll(client, "aged", "1", {"kind": "device", "name": "old-agent"})
        assert (ended["state"], ended["devices"]) == ("FAILED", {"SKIPPED": 1})
        assert ended["reason"] == "no device has a place for the model"
        assert old.slots == {}
