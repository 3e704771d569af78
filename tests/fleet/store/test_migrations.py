"""A database of an earlier version comes up with its rows."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import inspect, text
from sqlalchemy.exc import DBAPIError

from edgec.fleet.audit.chain import verify
from edgec.fleet.audit.log import audit, audit_entries
from edgec.fleet.store.bulk import insert_new
from edgec.fleet.store.database import Database
from edgec.fleet.store.tables import Capture, Detection, Device, DeviceSlot, Member, RollUp, Telemetry
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


def device_row(number: int, model: str, version: str, health: dict[str, Any]) -> dict[str, Any]:
    return {
        "id": number, "name": f"d{number}", "admission": "accepted", "target": "", "agent_version": "", "labels": "{}",
        "password_hash": "", "token_hash": "", "enrolled_at": 0, "state": "never", "boot_id": "", "session_seq": 0,
        "model": "", "version": "", "digest": "", "desired_model": model, "desired_version": version,
        "health": json.dumps(health),
    }  # fmt: skip


def test_wishes_move_to_slots_and_those_that_failed_are_dropped(backend: Backend, tmp_path: Path) -> None:
    database = open_database(backend, tmp_path, "slots")
    database.migrate("0006")
    eyes = {
        "slot": "eyes",
        "name": "eyes",
        "version": "2",
        "manifest_digest": "sha256:e2",
        "state": "running",
    }
    ears = {
        "slot": "ears",
        "name": "ears",
        "version": "1",
        "manifest_digest": "sha256:a1",
        "state": "running",
    }
    rows = [
        device_row(1, "eyes", "2", {"models": [ears, eyes, {"slot": "spare", "state": "absent"}]}),
        device_row(2, "ears", "9", {"models": [ears]}),
        device_row(3, "eyes", "2", {}),
    ]
    with database.writing() as session:
        columns = list(rows[0])
        statement = (
            f"INSERT INTO devices ({', '.join(columns)}) VALUES ({', '.join(':' + c for c in columns)})"
        )
        session.execute(text(statement), rows)
        session.execute(
            text(
                "INSERT INTO rollouts (id, model, version, scope_kind, scope, plan, state, stage, stage_since, reason,"
                " verdicts, created_by, created_at, deadline, lease_owner, lease_until) VALUES"
                " (5, 'eyes', '2', 'all', '', '{}', 'SUCCEEDED', 0, 0, '', '{}', '', 0, 0, '', 0)"
            )
        )
        for device in (1, 2):
            session.execute(
                text(
                    "INSERT INTO members (rollout_id, device_id, rank, stage, state, attempts, job_id, previous_model,"
                    " previous_version, changed_at, detail)"
                    f" VALUES (5, {device}, 0, 0, 'SUCCEEDED', 1, '', '', '', 0, '')"
                )
            )
    database.migrate()
    with database.writing() as session:
        found = {(row.device_id, row.slot): row for row in session.query(DeviceSlot)}
        assert {key: row.desired_digest for key, row in found.items()} == {
            (1, "eyes"): "sha256:e2", (1, "ears"): "", (1, "spare"): "", (2, "ears"): "",
        }  # fmt: skip
        assert (found[1, "ears"].model, found[1, "ears"].digest) == ("ears", "sha256:a1")
        assert [(m.device_id, m.slot, m.has_place) for m in session.query(Member).order_by(Member.id)] == [
            (1, "", True), (2, "", True),
        ]  # fmt: skip
        session.add(Member(rollout_id=5, device_id=1, slot="ears"))
    database.migrate("-1")
    with database.reading() as session:
        wishes = session.execute(
            text("SELECT id, desired_model, desired_version FROM devices ORDER BY id")
        ).all()
        assert [tuple(row) for row in wishes] == [(1, "eyes", "2"), (2, "", ""), (3, "", "")]
        assert session.execute(text("SELECT count(*) FROM members")).scalar() == 2
    database.migrate()
    with database.reading() as session:
        assert session.query(DeviceSlot).count() == 4
        assert session.query(Device).count() == 3
    database.close()
