"""Jobs: created here, executed by devices, ended here at the latest when their time is up."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from edgec.fleet.audit.log import audit
from edgec.fleet.broker.messages import Publisher
from edgec.fleet.devices.service import get_device
from edgec.fleet.problems import Problem
from edgec.fleet.store.database import Database
from edgec.fleet.store.tables import Device, Job
from edgec.protocol.codec import encode
from edgec.protocol.jobs import JobExecution, JobState, PendingJobs
from edgec.protocol.topics import Topics

ENDED = frozenset(state.value for state in JobState if state.terminal)
PENDING = ("QUEUED", "IN_PROGRESS")


def create_job(
    session: Session, device: Device, document: dict[str, Any], *, purpose: str, timeout_s: float,
    rollout_id: int | None = None, now: float | None = None,
) -> Job:  # fmt: skip
    """Queue a job. It times out `timeout_s` after the device started it, or after it was queued."""
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
    """The job as a message of the protocol."""
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


def queue_command(session: Session, actor: str, name: str, document: dict[str, Any], timeout_s: float) -> Job:
    """Queue an operator's command for a device.

    Args:
        session: a writing session.
        actor: who sends it, for the audit log.
        name: the device.
        document: a `CommandDocument` of the protocol as JSON.
        timeout_s: the job times out after this many seconds.

    Raises:
        Problem: 404; 409 when the device is not accepted: it would never hear of the job.
    """
    device = get_device(session, name)
    if device.admission != "accepted":
        raise Problem(409, "Not accepted", f"The device {name} is {device.admission}.")
    job = create_job(session, device, document, purpose="command", timeout_s=timeout_s)
    audit(session, actor, "device.command", name, operation=document["operation"])
    session.flush()
    return job


def cancel_job(session: Session, actor: str, name: str, job_id: str) -> Job:
    """Cancel a job of a device; a job that has ended keeps its state.

    Raises:
        Problem: 404 for an unknown device or job.
    """
    device = get_device(session, name)
    job = session.scalar(select(Job).filter_by(id=job_id, device_id=device.id))
    if job is None:
        raise Problem(404, "Job not found", f"The device {name} has no job {job_id!r}.")
    end_job(job, "CANCELED", time.time(), f"canceled by {actor}")
    audit(session, actor, "job.cancel", job_id)
    return job


def end_job(job: Job, state: str, now: float, message: str) -> None:
    """End a job from the fleet's side; a job that has ended keeps its state."""
    if job.state in ENDED:
        return
    job.state = state
    job.finished_at = now
    job.update_seq += 1
    job.detail = {**job.detail, "message": message}


def expire_jobs(session: Session, now: float) -> set[int]:
    """End every job whose time is up; returns the ids of the devices concerned."""
    # Jobs locked by another process are being updated: the next pass will see them.
    query = select(Job).where(Job.state.in_(PENDING), Job.expires_at < now).with_for_update(skip_locked=True)
    late = session.scalars(query).all()
    for job in late:
        waited = "did not take the job up" if job.state == "QUEUED" else "did not finish"
        end_job(job, "TIMED_OUT", now, f"the device {waited} within {job.detail.get('timeout_s', 0):.0f} s")
    return {job.device_id for job in late}


def notify(
    database: Database, publisher: Publisher, fleet: str, device_ids: Iterable[int] | None = None
) -> int:
    """Publish the pending jobs of these devices (None: of all that have some) as retained messages; returns the
    number of devices."""
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


def job_view(job: Job) -> dict[str, Any]:
    """A job as the API represents it."""
    view: dict[str, Any] = execution(job).model_dump(mode="json")
    return view | {"purpose": job.purpose, "rollout": job.rollout_id, "finished_at": job.finished_at}
