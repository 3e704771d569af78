"""The sequential test: its error rate under constant looking, and what it finds."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable
from typing import Any

import pytest

from edgec.fleet.rollouts.judge import find
from edgec.fleet.rollouts.sequential import Metric, likelihood_ratio
from tests.fleet.servers import FleetServer, wait_for
from tests.fleet.sim_device import SimDevice

LATENCY = Metric("latency", math.log(1.2), 0.05, False, True)
ALPHA = 0.05


def looks(random_: random.Random, growth: float, spread: float, devices: int = 1) -> bool:
    """Whether any of 40 looks at growing samples speaks against the version."""
    updated: list[float] = []
    control: list[float] = []
    for _look in range(40):
        updated += [random_.gauss(math.log(growth), spread) for _ in range(4 * devices)]
        control += [random_.gauss(0.0, spread) for _ in range(12 * devices)]
        if find(LATENCY, updated, control, ALPHA, 1).against:
            return True
    return False


@pytest.mark.parametrize("spread", [0.03, 0.8])
@pytest.mark.parametrize("growth", [1.0, 1.2])
def test_a_version_within_its_limit_is_stopped_no_more_often_than_stated(
    growth: float, spread: float
) -> None:
    """At the very edge of what is tolerated, looking 40 times."""
    random_ = random.Random(7)
    runs = 80
    alarms = sum(looks(random_, growth, spread) for _ in range(runs))
    # Three standard deviations of a fair coin with the stated error rate.
    assert alarms <= runs * ALPHA + 3 * math.sqrt(runs * ALPHA * (1 - ALPHA)), alarms


def test_a_version_that_is_worse_is_found() -> None:
    random_ = random.Random(8)
    assert sum(looks(random_, 1.6, 0.2) for _ in range(30)) >= 29


def test_few_samples_say_nothing() -> None:
    assert likelihood_ratio([9.0] * 7, [0.0] * 50, 0.1, 0.05) == 1.0
    assert likelihood_ratio([], [], 0.1, 0.05) == 1.0
    assert likelihood_ratio([9.0] * 50, [], 0.1, 0.05) > 1e9, "without control, against the device's own past"


def test_a_slower_model_is_taken_back_though_every_install_succeeded(
    server: FleetServer, device: Callable[..., SimDevice], push: Callable[..., str]
) -> None:
    random_ = random.Random(9)
    push("slow", "1")
    push("slow", "2")
    devices = [device(f"slow-{i}", line="slow") for i in range(4)]
    with server.client() as client:
        client.put("/groups/slow", {"selector": {"labels": {"line": "slow"}}})

        def roll(version: str, **plan: Any) -> dict[str, Any]:
            body = {
                "model": "slow",
                "version": version,
                "scope": {"kind": "group", "name": "slow"},
                "plan": plan,
            }
            number = client.post("/rollouts", body)["id"]

            def over() -> Any:
                for item in devices:
                    factor = 2.5 if item.running["version"] == "2" else 1.0
                    item.send_health(latency_ms=random_.gauss(10, 0.3) * factor)
                time.sleep(0.01)
                return (r := client.get(f"/rollouts/{number}"))["ended"] and r

            return dict(wait_for(over, 200, f"rollout {number}"))

        assert roll("1")["state"] == "SUCCEEDED"
        for _ in range(12):
            for item in devices:
                item.send_health(latency_ms=random_.gauss(10, 0.3)).wait_for_publish(60)
        stages = [{"percent": 25, "soak_s": 45}, {"percent": 100}]
        rollout = roll("2", stages=stages, criteria={"latency_ratio": 1.5, "alpha": 0.01})
        assert rollout["state"] == "ROLLED_BACK"
        assert "latency on updated devices is 2." in rollout["reason"]
        assert "false alarm below 1.00%" in rollout["reason"]
        assert rollout["verdicts"]["latency"]["against"]
        assert {item.running["version"] for item in devices} == {"1"}
