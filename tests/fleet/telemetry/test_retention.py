"""What remains of telemetry and detections when their time is up."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import func, select

from edgec.fleet.store.database import Database
from edgec.fleet.store.tables import Detection, Device, RollUp, Telemetry
from edgec.fleet.telemetry import retention
from edgec.fleet.telemetry.retention import expire_detections, roll_up

HOUR = 1_700_000_000 // 3600


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    database = Database(f"sqlite:///{tmp_path / 'fleet.db'}")
    database.migrate()
    with database.writing() as session:
        session.add(Device(id=1, name="cam"))
    yield database
    database.close()


def test_full_hours_become_one_row_each_and_a_begun_hour_stays(database: Database) -> None:
    with database.writing() as session:
        for minute, fps, latency in ((0, 10.0, 4.0), (30, 20.0, 8.0), (61, 30.0, 6.0), (125, 40.0, 1.0)):
            at = 3600.0 * HOUR + 60 * minute
            row = Telemetry(device_id=1, stream="door", at=at, version="3", fps=fps, latency_ms=latency)
            session.add(row)
    roll_up(database, 3600.0 * (HOUR + 2) + 600)
    roll_up(database, 3600.0 * (HOUR + 2) + 600)  # Once more changes nothing.
    with database.reading() as session:
        rows = session.scalars(select(RollUp).order_by(RollUp.hour))
        found = [(r.hour - HOUR, r.reports, r.fps_mean, r.latency_ms_mean, r.latency_ms_max) for r in rows]
        assert found == [(0, 2, 15.0, 6.0, 8.0), (1, 1, 30.0, 6.0, 6.0)]
        assert [row.fps for row in session.scalars(select(Telemetry))] == [40.0]


def test_versions_are_not_mixed(database: Database) -> None:
    with database.writing() as session:
        for number, version in enumerate(("3", "4", "4")):
            session.add(Telemetry(device_id=1, stream="", at=3600.0 * HOUR + number, version=version))
    roll_up(database, 3600.0 * (HOUR + 1))
    with database.reading() as session:
        assert sorted(session.execute(select(RollUp.version, RollUp.reports)).all()) == [("3", 1), ("4", 2)]


def test_old_detections_go_in_portions(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retention, "PORTION", 10)
    with database.writing() as session:
        for number in range(25):
            session.add(
                Detection(device_id=1, event_id=f"e{number}", stream="door", at=float(number), phase="new")
            )
    expire_detections(database, 23.0, threading.Event())
    with database.reading() as session:
        assert sorted(session.scalars(select(Detection.at))) == [23.0, 24.0]


def test_a_stop_ends_the_deletion_between_two_portions(database: Database) -> None:
    stopped = threading.Event()
    stopped.set()
    with database.writing() as session:
        session.add(Detection(device_id=1, event_id="e", stream="door", at=1.0, phase="new"))
    expire_detections(database, 2.0, stopped)
    with database.reading() as session:
        assert session.scalar(select(func.count(Detection.id))) == 1
