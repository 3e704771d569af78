"""Which artifact a device gets when there is none of its own target."""

from __future__ import annotations

from itertools import permutations
from typing import Any

import pytest

from edgec.fleet.rollouts.artifacts import choose
from edgec.fleet.store.tables import ModelVersion
from edgec.targets import load_target


def made_for(
    target: str, median_ms: float | None = None, *, pushed_at: float = 0.0, cpu: str = "A"
) -> ModelVersion:
    known = load_target(target)
    config = {"arch": known.arch, "required_features": sorted(known.features)}
    evidence: dict[str, Any] = {"machine": {"cpu": cpu}, "threads": 2, "latency": {}}
    if median_ms is not None:
        evidence["latency"] = {"edgec": {"median_ms": median_ms}}
    return ModelVersion(target=target, config=config, evidence=evidence, pushed_at=pushed_at)


@pytest.mark.parametrize(
    ("device", "artifacts", "chosen"),
    [
        ("rpi5", [made_for("rpi5"), made_for("rk3588")], "rpi5"),
        ("rpi5", [made_for("aarch64"), made_for("rpi4")], "rpi4"),
        # Equal features: the same core, although the other one was measured and pushed last.
        ("rpi5", [made_for("imx95", 1.0, pushed_at=9), made_for("rk3588"), made_for("graviton2")], "rk3588"),
        # None of its core: by time where one processor measured all, else by the core most like it.
        ("graviton2", [made_for("imx95", 3.0), made_for("rpi5", 4.0)], "imx95"),
        ("graviton2", [made_for("imx95", 3.0), made_for("rpi5", 4.0, cpu="B")], "rpi5"),
        ("graviton2", [made_for("imx95", 3.0), made_for("rpi5")], "rpi5"),
        ("rpi3", [made_for("imx8mp", pushed_at=1), made_for("rpi-zero2w", pushed_at=2)], "rpi-zero2w"),
        ("rpi3", [made_for("imx8mp"), made_for("rpi-zero2w")], "imx8mp"),
        ("x86-64-v2", [made_for("x86-64-v3")], None),
    ],
)
def test_the_choice_is_the_same_in_any_order(
    device: str, artifacts: list[ModelVersion], chosen: str | None
) -> None:
    for ordered in permutations(artifacts):
        found = choose(list(ordered), device)
        assert (found and found.target) == chosen


def test_evidence_of_other_hands_is_no_measurement() -> None:
    odd = made_for("imx95")
    odd.evidence = {"latency": {"edgec": ["fast"]}, "machine": "a board", "threads": "many"}
    found = choose([odd, made_for("rpi5", 4.0)], "graviton2")
    assert found is not None
    assert found.target == "rpi5"
