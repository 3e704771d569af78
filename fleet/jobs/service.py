"""Jobs: created here, carried out by devices, ended here at the latest when their time is up."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any, Protocol

from sqlalchemy import select
from sqlalchemy.orm import Session

from edgec.fleet.store.database import Database
from edgec.fleet.store.tables import Device, Job
from edgec.protocol.codec import encode
from edgec.protocol.jobs import JobExecution, JobState, PendingJobs
from edgec.protocol.topics import Topics

ENDED = frozenset(state.value for state in JobState if state.terminal)
PENDING = ("QUEUED", "IN_PROGRESS")


class Publisher(Protocol):
    """Sends to devices; never blocks, and may drop when there is no connection (retained state is sent
    again)."""

    def publish(self, topic: str, payload: bytes, *, retain: bool = False) -> None:
        """Send with QoS 1."""


def create_job(
    session: Session, device: Device, document: dict[str, Any], *, purpose: str, timeout_s: float,
    rollout_id: int | None = None, now: float | None = None,
) -> Job:  # fmt: skip
    """Queue a job. It ends by itself ``timeout_s`` after the device took it up, or after it was queued."""
    created = time.time() if now is None else now
    job = Job(
        id=f"{purpose}-{secrets.token_hex(8)}",
        device_id=device.id,
        rollout_id=rollout_id,
        purpose=purpose,
        document=document,
        state="QUEUED",
        detail={"timeout_s": timeout_s},
        update_seq=1,
        created_at=created,
        expires_at=created + timeout_s,
    )
    session.add(job)
    return job


def execution(job: Job) -> JobExecution:
    """The job as the protocol words it."""
    return JobExecution(
        job_id=job.id,
        state=JobState(job.state),
        version=max(job.update_seq, 1),
        document=job.document,
        queued_at=_time(job.created_at),
        started_at=_time(job.started_at) if job.started_at else None,
        timeout_s=job.detail.get("timeout_s") or None,
        details={key: value for key, value in job.detail.items() if key != "timeout_s"},
    )


def _time(at: float) -> datetime:
    return datetime.fromtimestamp(at, UTC)


def end_job(job: Job, state: str, now: float, message: str) -> None:
    """End a job from the fleet's side; one that has ended keeps its end."""
    if job.state in ENDED:
        return
    job.state = state
    job.finished_at = now
    job.update_seq += 1
    job.detail = {**job.detail, "message": message}


def expire_jobs(session: Session, now: float) -> set[int]:
    """End every job whose time is up; the devices concerned."""
    # Those that somebody else is writing have news: the next look will tell.
    query = select(Job).where(Job.state.in_(PENDING), Job.expires_at < now).with_for_update(skip_locked=True)
    late = session.scalars(query).all()
    for job in late:
        waited = "did not take the job up" if job.state == "QUEUED" else "did not finish"
        end_job(job, "TIMED_OUT", now, f"the device {waited} within {job.detail.get('timeout_s', 0):.0f} s")
    return {job.device_id for job in late}


def notify(
    database: Database, publisher: Publisher, fleet: str, device_ids: Iterable[int] | None = None
) -> int:
    """Publish the pending jobs of these devices (None: of all that have some), retained; how many devices."""
    wanted = None if device_ids is None else set(device_ids)
    if wanted is not None and not wanted:
        return 0
    with database.reading() as session:
        query = (
            select(Job, Device.name).join(Device, Device.id == Job.device_id).where(Job.state.in_(PENDING))
        )
        names = select(Device.id, Device.name)
        pending: dict[str, list[JobExecution]] = {}
        if wanted is not None:
            for chunk in _chunks(sorted(wanted)):
                pending |= {name: [] for _id, name in session.execute(names.where(Device.id.in_(chunk)))}
                rows = session.execute(query.where(Job.device_id.in_(chunk)).order_by(Job.created_at))
                for job, name in rows:
                    pending[name].append(execution(job))
        else:
            for job, name in session.execute(query.order_by(Job.created_at)):
                pending.setdefault(name, []).append(execution(job))
    for name, executions in pending.items():
        message = PendingJobs(executions=executions, timestamp=time.time())
        publisher.publish(Topics(fleet, name).jobs_notify, encode(message), retain=True)
    return len(pending)


def _chunks(values: list[int], size: int = 500) -> Iterable[list[int]]:
    for start in range(0, len(values), size):
        yield values[start : start + size]
