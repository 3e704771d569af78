"""Progress of jobs, as devices report it."""

from __future__ import annotations

from datetime import UTC, datetime

from sqlalchemy.orm import Session

from edgec.fleet.broker.messages import Reply
from edgec.fleet.devices.slots import given_up, installed
from edgec.fleet.jobs.service import ENDED, execution
from edgec.fleet.store.tables import Device, Job
from edgec.protocol.codec import decode, encode
from edgec.protocol.errors import InvalidTransition, VersionConflict
from edgec.protocol.jobs import JobState, JobUpdate, JobUpdateAccepted, JobUpdateRejected, apply_update
from edgec.protocol.topics import Kind, ParsedTopic, Topics

UNDECIDED_S = 300.0
"""A device that waits for frames says so every minute; a job stays open for at least so long after the last time."""


def apply_job_update(
    session: Session, device: Device, topic: ParsedTopic, payload: bytes, now: float
) -> Reply:
    """Apply a device's update of its job; replies that it is accepted, or with the actual state of the job.

    Raises:
        ProtocolError: the payload is not a valid job update.
    """
    topics = Topics(topic.fleet, topic.device)
    refused = topics.of(Kind.JOB_UPDATE_REJECTED, topic.name)
    update = decode(JobUpdate, payload)
    job = session.get(Job, topic.name)
    if job is None or job.device_id != device.id:
        answer = JobUpdateRejected(
            job_id=topic.name, code="ResourceNotFound", message="no such job for this device",
            client_token=update.client_token,
        )  # fmt: skip
        return Reply(refused, encode(answer))
    before = execution(job)
    try:
        after = apply_update(before, update, datetime.fromtimestamp(now, UTC))
    except (InvalidTransition, VersionConflict) as error:
        stale = isinstance(error, VersionConflict)
        answer = JobUpdateRejected(
            job_id=job.id, code="VersionMismatch" if stale else "InvalidStateTransition", message=str(error),
            state=before.state, version=before.version,
            client_token=update.client_token,
        )  # fmt: skip
        return Reply(refused, encode(answer))
    job.detail = {**after.details, "timeout_s": job.detail.get("timeout_s", 0)}
    _store(session, device, job, after.state, after.version, now)
    accepted = JobUpdateAccepted(
        job_id=job.id, state=after.state, version=after.version, client_token=update.client_token
    )
    return Reply(topics.of(Kind.JOB_UPDATE_ACCEPTED, topic.name), encode(accepted))


def _store(session: Session, device: Device, job: Job, state: JobState, version: int, now: float) -> None:
    if job.state in ENDED:
        return
    if state is JobState.IN_PROGRESS and job.started_at is None:
        job.started_at = now
        job.expires_at = now + float(job.detail.get("timeout_s") or 0)
    if state.terminal:
        job.finished_at = now
        if state is JobState.SUCCEEDED:
            _record(session, device, job)
    elif job.detail.get("undecided"):
        # The device waits for frames to judge the new model by: that takes as long as it takes.
        timeout_s = max(float(job.detail.get("timeout_s") or 0), UNDECIDED_S)
        job.expires_at = max(job.expires_at, now + timeout_s)
    job.state, job.update_seq = state.value, version


def _record(session: Session, device: Device, job: Job) -> None:
    """Record in its slot what a job that succeeded has made run."""
    document, slot = job.document, str(job.detail.get("slot") or job.document.get("slot") or "")
    match document.get("operation"):
        case "update" if job.purpose != "experiment":
            model, version, digest = document["model"], document["version"], document["manifest_digest"]
            device.model, device.version, device.digest = model, version, digest
            installed(session, device, slot, model, version, digest)
        case "rollback" if job.purpose == "command":
            # An operator's own decision: from now on this is what is wanted.
            given_up(session, device.id, slot, str(job.detail.get("running_digest", "")))
