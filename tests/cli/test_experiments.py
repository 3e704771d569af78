"""`edgec experiments`."""

from __future__ import annotations

import json
from pathlib import Path

from tests.cli.conftest import Operator
from tests.fleet.artifacts import make_artifact
from tests.fleet.servers import FleetServer, wait_for


def test_an_experiment_is_started_shown_and_stopped(
    operator: Operator, fleet: FleetServer, tmp_path: Path
) -> None:
    make_artifact(tmp_path / "a.edge", "tried")
    operator("push", tmp_path / "a.edge")
    fleet.enroll("tried-1")
    options = ("--to", "tried-1", "--share", "50", "--duration", "12h", "--slot", "own")
    started = json.loads(operator("experiments", "start", "tried:1", *options, "--json"))
    assert (started["mode"], started["plan"]["share"], started["plan"]["duration_s"]) == (
        "shadow",
        0.5,
        43200,
    )
    number = started["id"]
    assert number in {row["id"] for row in json.loads(operator("experiments", "--json"))}
    shown = operator("experiments", "show", number)
    assert f"experiment {number} of" in shown
    assert "undecided" in shown
    assert f"experiment {number} is ending: undecided" in operator("experiments", "stop", number)
    wait_for(
        lambda: json.loads(operator("experiments", "show", number, "--json"))["state"] != "RUNNING",
        60,
        "the end",
    )


def test_experiments_that_make_no_sense_are_refused(operator: Operator) -> None:
    assert "write MODEL:VERSION" in operator("experiments", "start", "tried", "--all", status=2)
    assert "choose the devices" in operator("experiments", "start", "tried:1", status=2)
    assert "'soon' is not a duration" in operator(
        "experiments", "start", "x:1", "--all", "--duration", "soon", status=2
    )
