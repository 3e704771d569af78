"""Degraded parts: recorded once for each reason, reported until they are cleared."""

from __future__ import annotations

from edgec.device_agent.health.degraded import Degraded


def test_a_reason_is_recorded_once_and_cleared() -> None:
    changes: list[int] = []
    degraded = Degraded(lambda: changes.append(1))
    degraded.record("outbox", "the disk is full")
    degraded.record("outbox", "the disk is full")
    assert (degraded.lines(), len(changes)) == (["outbox: the disk is full"], 1)
    degraded.record("outbox", "the disk is read-only")
    degraded.record("budget", "yard to 5 fps")
    assert degraded.lines() == ["outbox: the disk is read-only", "budget: yard to 5 fps"]
    degraded.clear("outbox")
    degraded.clear("outbox")
    assert (degraded.lines(), len(changes)) == (["budget: yard to 5 fps"], 4)
