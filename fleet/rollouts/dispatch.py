"""Update jobs of a rollout: their document, queueing and cancellation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import select
from sqlalchemy.orm import Session, defer

from edgec.fleet.devices.slots import no_place, places, slots_of, want
from edgec.fleet.jobs.service import create_job, end_job
from edgec.fleet.rollouts.artifacts import choose
from edgec.fleet.rollouts.plan import MemberState, Plan
from edgec.fleet.store.tables import Device, DeviceSlot, Job, Member, ModelVersion, Rollout
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
    drop_wish(session, member, "the rollout was stopped before it was done here")
    return {member.device_id}


def drop_wish(session: Session, member: Member, reason: str) -> None:
    """Want of a member's slot again what was wanted before the rollout."""
    want(
        session, member.device_id, member.slot, member.prior_model, member.prior_version, member.prior_digest,
        reason=f"rollout {member.rollout_id}: {reason}",
    )  # fmt: skip


def keep_wish(session: Session, member: Member, job: Job) -> None:
    """The job of a member has succeeded: what it installed is what is wanted from now on."""
    document = job.document
    model, version = (
        document.get("model", member.previous_model),
        document.get("version", member.previous_version),
    )
    digest = document.get("manifest_digest", member.previous_digest)
    want(session, member.device_id, member.slot, model, version, digest)


def lose_way_back(session: Session, member: Member, reason: str) -> None:
    """A member could not be taken back: what it ran before stays wanted, and why it does not run is said."""
    want(
        session, member.device_id, member.slot, member.previous_model, member.previous_version,
        member.previous_digest, reason=f"rollout {member.rollout_id} could not take it back: {reason}",
    )  # fmt: skip


def send_updates(
    session: Session, rollout: Rollout, members: list[Member], now: float, addresses: Addresses, *, back: bool
) -> set[int]:
    """Queue update jobs for members, or with `back` jobs that restore what they ran; the devices to notify."""
    plan = Plan.model_validate(rollout.plan)
    cache: dict[tuple[str, str], list[ModelVersion]] = {}
    sent: set[int] = set()
    devices = _devices(session, [member.device_id for member in members])
    slots = slots_of(session, devices.keys())
    for member in members:
        model, version = (
            (member.previous_model, member.previous_version) if back else (rollout.model, rollout.version)
        )
        if (model, version) not in cache:
            rows = session.scalars(select(ModelVersion).filter_by(model=model, version=version))
            cache[model, version] = list(rows)
        device = devices[member.device_id]
        artifact = choose(cache[model, version], device.target)
        member.changed_at = now
        if not back and not _take_place(session, rollout, member, slots[device.id]):
            continue
        document: dict[str, object]
        if artifact is not None and (not back or member.previous_digest in ("", artifact.digest)):
            document = update_document(artifact, device, addresses, plan)
            if member.slot:
                document["slot"] = member.slot
        elif back:
            # Not in the registry, such as the model that the device was delivered with: it has kept it itself.
            if not _succeeded(session, member):
                continue  # canceled before the device had changed anything
            document = {"operation": "rollback", "parameters": {"digest": member.previous_digest}}
            document |= {"slot": member.slot} if member.slot else {}
        else:
            member.state = MemberState.FAILED.value
            member.detail = f"{model}:{version} for {device.target} is not in the registry"
            continue
        job = create_job(
            session,
            device,
            document,
            purpose="rollback" if back else "update",
            timeout_s=plan.job_timeout_s,
            rollout_id=rollout.id,
            now=now,
        )
        digest = member.previous_digest if back else str(document["manifest_digest"])
        reason = f"rollout {rollout.id} is {'taking it back' if back else 'updating it'}"
        want(session, device.id, member.slot, model, version, digest, job_id=job.id, reason=reason)
        member.job_id = job.id
        member.state = (MemberState.REVERTING if back else MemberState.ACTIVE).value
        member.attempts += 0 if back else 1
        sent.add(member.device_id)
    return sent


def _succeeded(session: Session, member: Member) -> bool:
    job = session.get(Job, member.job_id) if member.job_id else None
    return job is not None and job.state == "SUCCEEDED"


def _take_place(session: Session, rollout: Rollout, member: Member, rows: Sequence[DeviceSlot]) -> bool:
    """Settle which slot a member's update is for, now that it begins; False if it cannot begin."""
    if not member.slot:
        spots = places(rows, rollout.model, rollout.slot, named=rollout.scope_kind == "device")
        if spots is None:
            return True  # the device has not reported its slots: it chooses one itself
        member.slot = spots[0] if spots else ""
    row = next((row for row in rows if row.slot == member.slot), None)
    if row is None:
        if not rows:
            return True
        member.state, member.has_place = MemberState.SKIPPED.value, False
        member.detail = no_place(rows, member.slot or rollout.slot)
        return False
    if row.job_id:
        member.detail = f"waits for job {row.job_id}"
        return False
    member.detail = ""
    if member.attempts == 0:
        member.previous_model, member.previous_version = row.model, row.version
        member.previous_digest = row.digest
        member.prior_model, member.prior_version = row.desired_model, row.desired_version
        member.prior_digest = row.desired_digest
    return True


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
