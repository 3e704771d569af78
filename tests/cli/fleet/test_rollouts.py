"""`edgec fleet rollouts`."""

from __future__ import annotations

import json
from pathlib import Path

from tests.cli.conftest import Operator
from tests.fleet.artifacts import make_artifact
from tests.fleet.servers import FleetServer, wait_for


def test_a_rollout_is_paused_resumed_and_aborted(
    operator: Operator, fleet: FleetServer, tmp_path: Path
) -> None:
    make_artifact(tmp_path / "a.edge", "steered")
    operator("push", tmp_path / "a.edge")
    fleet.enroll("steered-1")
    number = json.loads(operator("deploy", "steered:1", "--to", "steered-1", "--json"))["id"]
    assert f"rollout {number} is PAUSED" in operator("fleet", "rollouts", "pause", number)
    assert f"rollout {number} is RUNNING" in operator("fleet", "rollouts", "resume", number)
    shown = json.loads(operator("fleet", "rollouts", "show", number, "--json"))
    assert [member["device"] for member in shown["members"]] == ["steered-1"]
    operator("fleet", "rollouts", "abort", number)
    ended = wait_for(
        lambda: (r := json.loads(operator("fleet", "rollouts", "show", number, "--json")))["ended"] and r,
        60,
        "the end",
    )
    assert ended["state"] == "ABORTED"
    [listed] = json.loads(operator("fleet", "rollouts", "list", "--model", "steered", "--json"))
    assert (listed["id"], listed["state"]) == (number, "ABORTED")


def test_a_rollout_that_does_not_exist(operator: Operator) -> None:
    assert "999999" in operator("fleet", "rollouts", "show", 999999, status=4)
