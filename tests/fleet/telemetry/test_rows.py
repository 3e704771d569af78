"""Rows of telemetry and detections from messages."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from edgec.fleet.store.tables import Device
from edgec.fleet.telemetry.rows import MAX_COUNT, plausible_time, telemetry_rows, update_device
from edgec.protocol.status import Health

NOW = 1_800_000_000.0


def health(**changes: object) -> Health:
    fields = {
        "time": datetime.fromtimestamp(NOW - 1, UTC).isoformat(),
        "boot_id": "b1",
        "session_seq": 1,
        "models": [
            {"slot": "a", "name": "old", "version": "1", "state": "running", "inferences": 5, "errors": 1},
            {"slot": "b", "name": "wanted", "version": "2", "state": "probation", "inferences": 7},
            {"slot": "c", "name": "broken", "version": "9", "state": "failed", "inferences": 99},
        ],
        "streams": [
            {"name": "door", "state": "running", "model": "a", "fps": 10.0, "dropped": 3,
             "latency": {"total": {"p50_ms": 4.0, "p99_ms": 9.0}}},
            {"name": "gate", "state": "running", "fps": 5.0, "dropped": 2},
        ],
    }  # fmt: skip
    return Health.model_validate(fields | changes)


def test_the_main_model_stays_the_same_while_it_runs() -> None:
    device = Device(id=1, name="cam", model="wanted", agent_version="")
    main = update_device(device, health())
    assert main is not None
    assert (main.name, device.model, device.version) == ("wanted", "wanted", "2")
    assert (device.fps, device.latency_ms) == (15.0, 4.0)
    device.model = "nowhere"
    update_device(device, health())
    assert device.model == "old", "else the first that runs"


def test_a_message_gives_a_row_for_the_device_each_stream_and_each_of_several_models() -> None:
    device = Device(id=1, name="cam", model="wanted", agent_version="")
    report = health()
    rows = telemetry_rows(device, report, update_device(device, report), NOW)
    assert [row["stream"] for row in rows] == ["", "door", "gate", "@a", "@b"]
    assert {row["at"] for row in rows} == {NOW - 1}
    whole, door, gate, old, wanted = rows
    assert (whole["processed"], whole["errors"], whole["dropped"]) == (12, 1, 5), "of slots that run"
    assert (old["processed"], old["errors"], old["version"], old["fps"]) == (5, 1, "1", 10.0)
    assert (wanted["processed"], wanted["version"], wanted["fps"]) == (7, "2", None), "no stream uses it"
    assert (door["fps"], door["latency_ms"], gate["latency_ms"]) == (10.0, 4.0, None)


def test_counts_fit_the_database() -> None:
    device = Device(id=1, name="cam", model="", agent_version="")
    report = health(memory_bytes=2**70)
    assert telemetry_rows(device, report, update_device(device, report), NOW)[0]["memory_bytes"] == MAX_COUNT


@pytest.mark.parametrize(
    ("at", "kept"),
    [(NOW - 86400, NOW - 86400), (NOW + 299, NOW + 299), (NOW + 301, NOW), (0.0, NOW)],
    ids=["late", "slightly ahead", "ahead", "never set"],
)
def test_a_clock_that_cannot_be_right_is_replaced_by_the_arrival(at: float, kept: float) -> None:
    assert plausible_time(at, NOW) == kept
