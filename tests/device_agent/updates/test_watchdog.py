"""The watchdog: a model that keeps killing the process, or fails on every frame, gives way to the one before it."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgec.device_agent.inference.messages import ModelCounters, SlotCounters
from edgec.device_agent.inference.pulse import fingerprint
from edgec.device_agent.updates.deployments import Deployments, SlotState, Version
from edgec.device_agent.updates.watchdog import Watchdog

NEW, OLD = Version("sha256:new", "detector", "2"), Version("sha256:old", "detector", "1")


@pytest.fixture
def record(tmp_path: Path) -> Deployments:
    record = Deployments(tmp_path / "deployments.json")
    record.set_slot("a", SlotState(NEW, OLD))
    return record


def counters(inferences: int, errors: int, digest: str = NEW.digest) -> dict[str, SlotCounters]:
    model = ModelCounters(
        manifest_digest=digest, inferences=inferences, errors=errors, last_error="the kernel failed"
    )
    return {"a": SlotCounters(model)}


def test_three_deaths_roll_the_model_back(record: Deployments) -> None:
    watchdog = Watchdog(record)
    assert watchdog.died(fingerprint(NEW.digest)) == []
    assert watchdog.died(fingerprint(OLD.digest)) == []
    assert watchdog.died(fingerprint(NEW.digest)) == []
    [(slot, why)] = watchdog.died(fingerprint(NEW.digest))
    assert slot == "a"
    assert "detector 2" in why
    assert "detector 1 runs again" in why
    assert record.slot("a") == SlotState(OLD, None)


def test_a_model_without_a_predecessor_stays(record: Deployments) -> None:
    record.set_slot("a", SlotState(NEW, None))
    watchdog = Watchdog(record)
    assert [watchdog.died(fingerprint(NEW.digest)) for _ in range(6)] == [[]] * 6
    assert record.slot("a").current == NEW


def test_failing_on_every_frame_in_three_checks_rolls_back(record: Deployments) -> None:
    watchdog = Watchdog(record)
    assert [watchdog.check(counters(number * 20, number * 20)) for number in range(3)] == [[]] * 3
    [(slot, why)] = watchdog.check(counters(60, 60))
    assert (slot, record.slot("a").current) == ("a", OLD)
    assert "the kernel failed" in why


def test_one_good_frame_and_too_few_frames_are_forgiven(record: Deployments) -> None:
    watchdog = Watchdog(record)
    for number in range(8):  # every third look has one frame that went well
        errors = number * 20 - number // 3
        assert watchdog.check(counters(number * 20, errors)) == []
    watchdog = Watchdog(record)
    for number in range(8):
        assert watchdog.check(counters(number, number)) == []
    assert record.slot("a").current == NEW
