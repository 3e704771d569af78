"""Commands of operators to devices."""

from __future__ import annotations

from pathlib import Path

import pytest
from sqlalchemy import select

from edgec.fleet.jobs.service import cancel_job, create_job, expire_jobs, queue_command
from edgec.fleet.jobs.updates import UNDECIDED_S, apply_job_update
from edgec.fleet.problems import Problem
from edgec.fleet.store.database import Database
from edgec.fleet.store.tables import Audit, Device, Job
from edgec.protocol.codec import encode
from edgec.protocol.jobs import JobState, JobUpdate
from edgec.protocol.topics import Kind, ParsedTopic


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


def test_a_probation_that_waits_for_frames_keeps_its_job_open(database: Database) -> None:
    with database.writing() as session:
        device = session.scalars(select(Device).filter_by(name="accepted")).one()
        job = create_job(
            session, device, {"operation": "update"}, purpose="update", timeout_s=10.0, now=1000.0
        )
        session.flush()
        topic = ParsedTopic("f", "accepted", Kind.JOB_UPDATE, job.id)

        def told(now: float, **details: str) -> None:
            update = JobUpdate(state=JobState.IN_PROGRESS, details=details)
            apply_job_update(session, device, topic, encode(update), now)

        told(1001.0)
        assert job.expires_at == 1011.0
        told(1005.0, undecided="no frame seen from door")
        assert job.expires_at == 1005.0 + UNDECIDED_S
        told(1200.0, undecided="")
        assert job.expires_at == 1005.0 + UNDECIDED_S, "nothing is added once frames come"
        assert not expire_jobs(session, 1300.0)
        assert expire_jobs(session, 1400.0) == {device.id}
