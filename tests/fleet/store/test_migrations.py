"""A database of an earlier version comes up with its rows."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from sqlalchemy import inspect, text
from sqlalchemy.exc import DBAPIError

from edgec.fleet.audit.chain import verify
from edgec.fleet.audit.log import audit, audit_entries
from edgec.fleet.store.bulk import insert_new
from edgec.fleet.store.database import Database
from edgec.fleet.store.tables import Capture, Detection, Device, RollUp, Telemetry
from tests.fleet.servers import Backend

pytestmark = pytest.mark.backends("embedded", "external")

OLD_ROWS = (
    "INSERT INTO devices (id, name, admission, target, agent_version, labels, password_hash, token_hash, enrolled_at,"
    " state, boot_id, session_seq, model, version, digest, desired_model, desired_version, health) VALUES"
    " (7, 'cam', 'accepted', '', '', '{}', '', '', 0, 'never', '', 0, '', '', '', '', '', '{}')",
    "INSERT INTO samples (device_id, stream, at, version, fps, latency_ms, dropped) VALUES"
    " (7, 'door', 1700000000.5, '3', 9.5, 12.25, 4)",
    "INSERT INTO roll_ups (device_id, stream, hour, version, samples, fps_mean) VALUES (7, 'door', 472222, '3', 60, 9)",
    "INSERT INTO detections (device_id, event_id, stream, at, received_at, kind, label, track_id, version, data) VALUES"
    " (7, 'e1', 'door', 1700000000, 1700000001, 'end', 'person', 't1', '3', '{\"a\": 1}')",
    "INSERT INTO captures (device_id, sample_id, stream, model, version, at, received_at, reason, digest, size, width,"
    " height, predictions, meta, state, annotations, reviewed_by) VALUES (7, 'c1', 'door', 'm', '3', 1700000000,"
    " 1700000001, 'random', 'sha256:0', 10, 4, 3, '[]', '{}', 'new', '[]', '')",
)


def open_database(backend: Backend, folder: Path, name: str) -> Database:
    if backend.postgres is not None:
        return Database(backend.postgres.create(f"{name}-{os.getpid()}"))
    return Database(f"sqlite:///{folder / 'fleet.db'}")


OLD_AUDIT = (
    "INSERT INTO audit (at, actor, action, subject, detail) VALUES (1700000000, 'ann', 'device.accepted', 'cam', '{}'),"
    " (1700000001.5, 'bob', 'job.cancel', 'j1', '{\"why\": \"é\", \"n\": 1}')"
)


def test_the_audit_log_of_an_earlier_version_is_chained_and_only_grows(
    backend: Backend, tmp_path: Path
) -> None:
    database = open_database(backend, tmp_path, "chaining")
    database.migrate("0004")
    with database.writing() as session:
        session.execute(text(OLD_AUDIT.replace(":", "\\:")))
    database.migrate()
    with database.writing() as session:
        audit(session, "cem", "device.revoked", "cam", number=2.5)
    with database.reading() as session:
        assert verify(audit_entries(session)).count == 3
    for statement in ("UPDATE audit SET actor = 'eve'", "DELETE FROM audit"):
        with pytest.raises(DBAPIError, match="append-only"), database.writing() as session:
            session.execute(text(statement))
    database.close()


def test_telemetry_and_captures_survive_their_renaming(backend: Backend, tmp_path: Path) -> None:
    database = open_database(backend, tmp_path, "renaming")
    database.migrate("0003")
    with database.writing() as session:
        for statement in OLD_ROWS:
            session.execute(text(statement.replace(":", "\\:")))
    database.migrate()
    assert "samples" not in inspect(database.engine).get_table_names()
    assert "ix_telemetry_at" in {item["name"] for item in inspect(database.engine).get_indexes("telemetry")}
    with database.writing() as session:
        row = session.query(Telemetry).one()
        assert (row.device_id, row.stream, row.at, row.fps, row.latency_ms, row.dropped) == (
            7, "door", 1700000000.5, 9.5, 12.25, 4,
        )  # fmt: skip
        assert session.query(RollUp).one().reports == 60
        event = session.query(Detection).one()
        assert (event.phase, event.data) == ("end", {"a": 1})
        assert session.query(Capture).one().capture_id == "c1"
        # The key that recognises repeats, and the counter of numbers, came along.
        fields = {"device_id": 7, "stream": "door", "version": "4", "fps": 1.0}
        insert_new(session, Telemetry, [fields | {"at": 1700000000.5}, fields | {"at": 1700000001.5}])
        assert sorted((row.at, row.version) for row in session.query(Telemetry)) == [
            (1700000000.5, "3"), (1700000001.5, "4"),
        ]  # fmt: skip
    while "samples" not in inspect(database.engine).get_table_names():
        database.migrate("-1")
    with database.reading() as session:
        assert session.execute(text("SELECT count(*) FROM samples")).scalar() == 2
        assert session.execute(text("SELECT kind FROM detections")).scalar() == "end"
    database.migrate()
    with database.reading() as session:
        assert session.query(Device).one().name == "cam"
        assert session.query(Telemetry).count() == 2
    database.close()
