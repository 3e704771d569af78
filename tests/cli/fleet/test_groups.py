"""`edgec fleet groups`."""

from __future__ import annotations

import json

from tests.cli.conftest import Operator
from tests.fleet.servers import FleetServer


def test_a_group_has_named_devices_and_those_that_match(operator: Operator, fleet: FleetServer) -> None:
    fleet.enroll("grouped-1", hall="g")
    fleet.enroll("grouped-2", "rpi5", hall="g")
    fleet.enroll("grouped-3")

    def members(name: str) -> set[str]:
        return {row["name"] for row in json.loads(operator("devices", "list", "--group", name, "--json"))}

    operator("fleet", "groups", "put", "hall-g", "--label", "hall=g")
    assert members("hall-g") == {"grouped-1", "grouped-2"}
    operator(
        "fleet", "groups", "put", "hall-g", "--label", "hall=g", "--target", "rpi5", "--device", "grouped-3"
    )
    assert members("hall-g") == {"grouped-2", "grouped-3"}
    assert "hall-g" in {row["name"] for row in json.loads(operator("fleet", "groups", "list"))}


def test_labels_are_checked(operator: Operator) -> None:
    assert "write NAME=VALUE" in operator("fleet", "groups", "put", "x", "--label", "hall", status=2)
