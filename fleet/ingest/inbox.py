"""What single messages of devices do: presence, jobs and shadows."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

from sqlalchemy.orm import Session

from edgec.fleet.jobs.service import ENDED, execution
from edgec.fleet.store.tables import Device, Job, Shadow
from edgec.protocol.codec import decode, encode
from edgec.protocol.errors import InvalidTransition, ProtocolError, VersionConflict
from edgec.protocol.jobs import JobState, JobUpdate, JobUpdateAccepted, JobUpdateRejected, apply_update
from edgec.protocol.shadow import (
    ShadowAccepted,
    ShadowDocument,
    ShadowRejected,
    ShadowState,
    ShadowUpdate,
    delta_of,
)
from edgec.protocol.shadow import apply_update as merge_shadow
from edgec.protocol.status import Presence, Status
from edgec.protocol.topics import Kind, ParsedTopic, Topics


@dataclass(frozen=True, slots=True)
class Reply:
    """Something to publish once the transaction is committed."""

    topic: str
    payload: bytes


def apply_status(device: Device, payload: bytes, now: float) -> bool:
    """Believe a status unless it belongs to a session that is over; True if the device is there anew.

    Raises:
        ProtocolError: the payload is no status.
    """
    status = decode(Status, payload)
    known = None
    if device.state != "never":
        known = Status(state=Presence(device.state), boot_id=device.boot_id, session_seq=device.session_seq)
    if not status.supersedes(known):
        return False
    device.state = status.state.value
    device.boot_id, device.session_seq = status.boot_id, min(status.session_seq, 2**62)
    if status.state is Presence.ONLINE:
        device.agent_version = (status.agent_version or device.agent_version)[:64]
        device.target = (status.target or device.target)[:64]
    if (
        status.state is not Presence.OFFLINE
    ):  # A last will says when the broker noticed, not when it was seen.
        device.last_seen = max(device.last_seen or 0.0, now)
    return status.state is Presence.ONLINE


def apply_job_update(
    session: Session, device: Device, topic: ParsedTopic, payload: bytes, now: float
) -> Reply:
    """Take a device's word on its job; the answer says yes, or how the job really stands.

    Raises:
        ProtocolError: the payload is no job update.
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
    _store(device, job, after.state, after.version, now)
    job.detail = {**after.details, "timeout_s": job.detail.get("timeout_s", 0)}
    accepted = JobUpdateAccepted(
        job_id=job.id, state=after.state, version=after.version, client_token=update.client_token
    )
    return Reply(topics.of(Kind.JOB_UPDATE_ACCEPTED, topic.name), encode(accepted))


def _store(device: Device, job: Job, state: JobState, version: int, now: float) -> None:
    if job.state in ENDED:
        return
    if state is JobState.IN_PROGRESS and job.started_at is None:
        job.started_at = now
        job.expires_at = now + float(job.detail.get("timeout_s") or 0)
    if state.terminal:
        job.finished_at = now
        if state is JobState.SUCCEEDED and job.document.get("operation") == "update":
            # Health says so too, but only at its own pace.
            device.model, device.version = job.document["model"], job.document["version"]
            device.digest = job.document["manifest_digest"]
    job.state, job.update_seq = state.value, version


def load_shadow(session: Session, device: Device, name: str) -> tuple[Shadow, ShadowDocument]:
    """The named shadow, new if there was none, as row and as document."""
    row = session.get(Shadow, (device.id, name), with_for_update=True)
    if row is None:
        row = Shadow(device_id=device.id, name=name, version=0, desired={}, reported={}, updated_at=0.0)
        session.add(row)
    state = ShadowState(desired=row.desired or None, reported=row.reported or None)
    return row, ShadowDocument(state=state, version=row.version, timestamp=row.updated_at)


def apply_shadow_get(session: Session, device: Device, topic: ParsedTopic) -> Reply:
    """Answer with the whole shadow, or 404 as AWS does."""
    topics = Topics(topic.fleet, topic.device)
    row = session.get(Shadow, (device.id, topic.name))
    if row is None:
        refused = ShadowRejected(code=404, message=f"no shadow exists with name {topic.name!r}")
        return Reply(topics.of(Kind.SHADOW_GET_REJECTED, topic.name), encode(refused))
    _row, document = load_shadow(session, device, topic.name)
    return Reply(topics.of(Kind.SHADOW_GET_ACCEPTED, topic.name), encode(document))


def apply_shadow_update(
    session: Session, device: Device, topic: ParsedTopic, payload: bytes, now: float
) -> list[Reply]:
    """Merge what the device reports. Desired is for operators: a device's wish for it is left out.

    Raises:
        ProtocolError: the payload is no shadow update.
    """
    update = decode(ShadowUpdate, payload)
    state = ShadowState(reported=update.state.reported)
    return change_shadow(session, device, topic, update.model_copy(update={"state": state}), now)


def change_shadow(
    session: Session, device: Device, topic: ParsedTopic, update: ShadowUpdate, now: float
) -> list[Reply]:
    """Apply an update from either side; accepted with a delta where one remains, or rejected."""
    topics = Topics(topic.fleet, topic.device)
    row, document = load_shadow(session, device, topic.name)
    try:
        after = merge_shadow(document, update, now)
    except ProtocolError as error:
        code = 409 if isinstance(error, VersionConflict) else 400
        refused = ShadowRejected(code=code, message=str(error), client_token=update.client_token)
        return [Reply(topics.of(Kind.SHADOW_UPDATE_REJECTED, topic.name), encode(refused))]
    row.desired, row.reported = after.state.desired or {}, after.state.reported or {}
    row.version, row.updated_at = after.version, now
    accepted = ShadowAccepted(
        state=update.state, version=after.version, timestamp=now, client_token=update.client_token
    )
    replies = [Reply(topics.of(Kind.SHADOW_UPDATE_ACCEPTED, topic.name), encode(accepted))]
    if delta := delta_of(after, document):
        replies.append(Reply(topics.of(Kind.SHADOW_DELTA, topic.name), encode(delta)))
    return replies
