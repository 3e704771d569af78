"""`edgec deploy`."""

from __future__ import annotations

import json

import pytest

from edgec.protocol.jobs import JobState
from tests.cli.conftest import Operator
from tests.fleet.artifacts import make_artifact
from tests.fleet.servers import FleetServer
from tests.fleet.sim_device import SimDevice


@pytest.fixture(scope="module")
def deployed(operator: Operator, fleet: FleetServer, tmp_path_factory: pytest.TempPathFactory) -> SimDevice:
    """A device with a pushed model for it."""
    folder = tmp_path_factory.mktemp("deployed")
    for version in ("1", "2"):
        make_artifact(folder / f"{version}.edge", "deployed", version)
        operator("push", folder / f"{version}.edge")
    return SimDevice(fleet.enroll("deploy-1", line="deploy"))


def test_a_version_reaches_the_device(operator: Operator, deployed: SimDevice) -> None:
    deployed.start()
    text = operator("deploy", "deployed:1", "--to", "deploy-1", "--wait")
    assert "SUCCEEDED" in text
    assert deployed.running["version"] == "1"
    deployed.outcome = lambda _document: JobState.FAILED
    assert "of deployed:2 ended" in operator("deploy", "deployed:2", "--to", "deploy-1", "--wait", status=5)
    assert deployed.running["version"] == "1"
    deployed.stop()


def test_the_plan_is_what_the_options_say(operator: Operator, deployed: SimDevice) -> None:
    options = (
        "--stages",
        "50:10m,100",
        "--max-failed",
        "5",
        "--rate",
        "30",
        "--max-latency",
        "1.5",
        "--deadline",
        "2h",
    )
    rollout = json.loads(operator("deploy", "deployed:1", "--to", "deploy-1", *options, "--json"))
    plan = rollout["plan"]
    assert [(stage["percent"], stage["soak_s"]) for stage in plan["stages"]] == [(50, 600), (100, 0)]
    assert (plan["max_failed_percent"], plan["rate_per_minute"], plan["deadline_s"]) == (5, 30, 7200)
    assert plan["criteria"]["latency_ratio"] == 1.5
    assert rollout["scope"] == {"kind": "device", "name": "deploy-1"}
    operator("fleet", "rollouts", "abort", rollout["id"])


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (("deployed", "--all"), 2, "write MODEL:VERSION"),
        (("deployed:1",), 2, "choose the devices"),
        (("deployed:1", "--all", "--to", "x"), 2, "choose the devices"),
        (("deployed:1", "--all", "--stages", "5,10"), 2, "the last stage must be 100"),
        (("deployed:1", "--all", "--job-timeout", "soon"), 2, "'soon' is not a duration"),
    ],
)
def test_plans_that_make_no_sense_are_refused(
    operator: Operator, arguments: tuple[str, ...], status: int, message: str
) -> None:
    assert message in operator("deploy", *arguments, status=status)
