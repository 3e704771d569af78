"""`edgec fleet access`."""

from __future__ import annotations

import json

from tests.cli.conftest import Edgec, Operator
from tests.fleet.servers import FleetServer


def test_a_viewer_may_look_and_not_change(operator: Operator, edgec: Edgec, fleet: FleetServer) -> None:
    token = operator("fleet", "access", "create", "watcher", "--role", "viewer").strip()
    viewer = {"EDGEC_SERVER": fleet.url, "EDGEC_TOKEN": token}
    assert edgec("devices", "--json", environment=viewer).returncode == 0
    refused = edgec("fleet", "token", "create", environment=viewer)
    assert refused.returncode == 4
    assert refused.stderr.startswith("error: ")
    [listed] = [row for row in json.loads(operator("fleet", "access", "list")) if row["name"] == "watcher"]
    assert listed["role"] == "viewer"
    assert token not in json.dumps(listed)
    operator("fleet", "access", "revoke", "watcher", "--yes")
    assert edgec("devices", environment=viewer).returncode == 4
