"""Commands of operators to devices."""

from __future__ import annotations

from pathlib import Path

import pytest
from sqlalchemy import select

from edgec.fleet.jobs.service import cancel_job, queue_command
from edgec.fleet.problems import Problem
from edgec.fleet.store.database import Database
from edgec.fleet.store.tables import Audit, Device, Job


@pytest.fixture
def database(tmp_path: Path) -> Database:
    database = Database(f"sqlite:///{tmp_path / 'fleet.db'}")
    database.migrate()
    with database.writing() as session:
        session.add_all(Device(name=name, admission=name) for name in ("accepted", "pending", "revoked"))
    return database


def test_a_command_is_queued_and_audited(database: Database) -> None:
    with database.writing() as session:
        job = queue_command(session, "ann", "accepted", {"operation": "snapshot"}, 60.0)
    with database.reading() as session:
        kept = session.get_one(Job, job.id)
        assert (kept.state, kept.document, kept.purpose) == ("QUEUED", {"operation": "snapshot"}, "command")
        line = session.scalars(select(Audit)).one()
        assert (line.actor, line.action, line.subject) == ("ann", "device.command", "accepted")


@pytest.mark.parametrize("name", ["pending", "revoked"])
def test_a_device_that_is_not_accepted_gets_no_command(database: Database, name: str) -> None:
    with pytest.raises(Problem, match=name) as refused, database.writing() as session:
        queue_command(session, "ann", name, {"operation": "snapshot"}, 60.0)
    assert refused.value.status == 409
    with database.reading() as session:
        assert session.scalar(select(Job.id)) is None


def test_a_job_of_another_device_cannot_be_canceled(database: Database) -> None:
    with database.writing() as session:
        job = queue_command(session, "ann", "accepted", {"operation": "snapshot"}, 60.0)
    with pytest.raises(Problem) as refused, database.writing() as session:
        cancel_job(session, "ann", "pending", job.id)
    assert refused.value.status == 404
    with database.writing() as session:
        assert cancel_job(session, "ann", "accepted", job.id).state == "CANCELED"
