"""Update jobs of a rollout: their document, queueing and cancellation."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import select
from sqlalchemy.orm import Session, defer

from edgec.fleet.jobs.service import create_job, end_job
from edgec.fleet.rollouts.artifacts import choose
from edgec.fleet.rollouts.plan import MemberState, Plan
from edgec.fleet.store.tables import Device, Job, Member, ModelVersion, Rollout
from edgec.fleet.trust.repository import Repository
from edgec.fleet.trust.signing import target_path


@dataclass(frozen=True, slots=True)
class Addresses:
    """Addresses in an update job.

    Attributes:
        fleet: the prefix of topics.
        registry: URL of this server.
        trust: tells whether versions are signed.
    """

    fleet: str
    registry: str
    trust: Repository


def cancel_member(session: Session, member: Member, now: float) -> set[int]:
    """Take a member out of the rollout and end its job; the devices to notify."""
    job = session.get(Job, member.job_id, with_for_update=True) if member.job_id else None
    member.state, member.changed_at = MemberState.CANCELED.value, now
    if job is None:
        return set()
    end_job(job, "CANCELED", now, "the rollout was stopped")
    return {member.device_id}


def send_updates(
    session: Session, rollout: Rollout, members: list[Member], now: float, addresses: Addresses, *, back: bool
) -> set[int]:
    """Queue update jobs for members, or with `back` jobs that restore what they ran; the devices to notify."""
    plan = Plan.model_validate(rollout.plan)
    cache: dict[tuple[str, str], list[ModelVersion]] = {}
    sent: set[int] = set()
    devices = _devices(session, [member.device_id for member in members])
    for member in members:
        version = member.previous_version if back else rollout.version
        if (rollout.model, version) not in cache:
            rows = session.scalars(select(ModelVersion).filter_by(model=rollout.model, version=version))
            cache[rollout.model, version] = list(rows)
        device = devices[member.device_id]
        artifact = choose(cache[rollout.model, version], device.target)
        member.changed_at = now
        if artifact is None:
            member.state = (MemberState.REVERT_FAILED if back else MemberState.FAILED).value
            member.detail = f"{rollout.model}:{version} for {device.target} is not in the registry"
            continue
        document = update_document(artifact, device, addresses, plan)
        job = create_job(
            session,
            device,
            document,
            purpose="rollback" if back else "update",
            timeout_s=plan.job_timeout_s,
            rollout_id=rollout.id,
            now=now,
        )
        device.desired_model, device.desired_version = rollout.model, version
        member.job_id = job.id
        member.state = (MemberState.REVERTING if back else MemberState.ACTIVE).value
        member.attempts += 0 if back else 1
        sent.add(member.device_id)
    return sent


def _devices(session: Session, ids: list[int]) -> dict[int, Device]:
    found: dict[int, Device] = {}
    for start in range(0, len(ids), 500):
        query = select(Device).where(Device.id.in_(ids[start : start + 500])).options(defer(Device.health))
        found |= {device.id: device for device in session.scalars(query)}
    return found


def update_document(
    artifact: ModelVersion, device: Device, addresses: Addresses, plan: Plan
) -> dict[str, object]:
    """The job document of the protocol that asks a device to run `artifact`."""
    document: dict[str, object] = {
        "operation": "update",
        "model": artifact.model,
        "version": artifact.version,
        "manifest_digest": artifact.digest,
        "registry": addresses.registry,
        "repository": artifact.repository,
        "target": device.target if artifact.target == device.target else "",
    }
    if addresses.trust.active:
        path = target_path(artifact.model, artifact.version, artifact.target)
        document["trust"] = {"metadata_url": f"{addresses.registry}/tuf/metadata", "path": path}
    if plan.probation_s is not None:
        document["probation_s"] = plan.probation_s
    return document
