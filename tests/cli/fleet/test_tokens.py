"""`edgec fleet token`."""

from __future__ import annotations

import json

import httpx

from tests.cli.conftest import Edgec, Operator
from tests.fleet.servers import FleetServer


def test_a_token_lets_in_as_many_devices_as_it_says(operator: Operator, fleet: FleetServer) -> None:
    made = json.loads(
        operator("fleet", "token", "create", "--uses", "1", "--label", "hall=b", "--note", "cli", "--json")
    )
    assert made["server"] == fleet.url

    def enrol(device: str) -> int:
        return httpx.post(
            f"{fleet.url}/api/v1/enroll", json={"token": made["token"], "device": device}
        ).status_code

    assert enrol("token-1") == 201
    assert enrol("token-2") == 403
    assert json.loads(operator("devices", "show", "token-1", "--json"))["labels"] == {"hall": "b"}


def test_a_revoked_token_lets_nobody_in(operator: Operator, fleet: FleetServer) -> None:
    made = json.loads(
        operator("fleet", "token", "create", "--uses", "5", "--note", "to be revoked", "--json")
    )
    [listed] = [
        row for row in json.loads(operator("fleet", "token", "list")) if row["note"] == "to be revoked"
    ]
    operator("fleet", "token", "revoke", listed["id"])
    assert "to be revoked" not in operator("fleet", "token", "list")
    answer = httpx.post(f"{fleet.url}/api/v1/enroll", json={"token": made["token"], "device": "token-3"})
    assert answer.status_code == 403


def test_the_token_alone_is_on_standard_output(edgec: Edgec, fleet: FleetServer) -> None:
    access = {"EDGEC_SERVER": fleet.url, "EDGEC_TOKEN": fleet.token}
    done = edgec("fleet", "token", "create", environment=access)
    assert len(done.stdout.split()) == 1
    assert f"edgec agent enroll --server {fleet.url}" in done.stderr


def test_labels_and_durations_are_checked(operator: Operator) -> None:
    assert "write NAME=VALUE" in operator("fleet", "token", "create", "--label", "hall", status=2)
    assert "is not a duration" in operator("fleet", "token", "create", "--valid", "long", status=2)
