"""Operations on rollouts: start, view, pause, resume, approve."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from edgec.fleet.audit.log import audit
from edgec.fleet.devices.slots import RUNS, no_place, places, slots_of
from edgec.fleet.groups.service import Scope, scope_query
from edgec.fleet.problems import Problem, not_found
from edgec.fleet.registry.versions import resolve
from edgec.fleet.rollouts.artifacts import artifacts_of, choose
from edgec.fleet.rollouts.decision import assign
from edgec.fleet.rollouts.plan import MemberState, Plan, RolloutState
from edgec.fleet.store.tables import Device, DeviceSlot, Member, ModelVersion, Rollout
from edgec.protocol.names import Name

ENDED = [state.value for state in RolloutState if state.ended]


class NewRollout(BaseModel):
    """A rollout to start. `version` may be a tag of the model. An empty `slot` means: on each device the slots that the
    model belongs in."""

    model_config = ConfigDict(extra="forbid")
    model: Name
    version: str = Field(min_length=1, max_length=64)
    slot: Name | None = None
    scope: Scope
    plan: Plan = Field(default_factory=lambda: Plan.model_validate({}))


def create_rollout(session: Session, actor: str, wanted: NewRollout) -> Rollout:
    """Start a rollout.

    Raises:
        Problem: 404 for an unknown version, device or group; 409 when no device fits, none has a place for the model,
        or one is busy with another.
    """
    model, plan = wanted.model, wanted.plan
    version = resolve(session, model, wanted.version)
    scope_kind, scope = wanted.scope.kind, wanted.scope.name
    artifacts = artifacts_of(session, model, version)
    devices = list(session.scalars(scope_query(session, scope_kind, scope)))
    if not devices:
        raise Problem(409, "No devices", f"The {scope_kind} {scope!r} has no accepted devices.")
    if not any(choose(artifacts, device.target) for device in devices):
        have = ", ".join(sorted({artifact.target for artifact in artifacts}))
        want = ", ".join(sorted({device.target for device in devices}))
        raise Problem(
            409, "No artifact fits", f"{model}:{version} exists only for {have}; the devices are {want}."
        )
    now = time.time()
    held = plan.stages[0].approval
    rollout = Rollout(
        model=model, version=version, slot=wanted.slot or "", scope_kind=scope_kind, scope=scope,
        plan=plan.model_dump(mode="json"),
        state=(RolloutState.AWAITING_APPROVAL if held else RolloutState.RUNNING).value, stage_since=now,
        created_by=actor, deadline=now + plan.deadline_s, created_at=now,
    )  # fmt: skip
    session.add(rollout)
    session.flush()
    members = add_members(session, rollout, plan, devices, artifacts)
    if not any(member.has_place for member in members):
        some = "; ".join(f"{device.name}: {_why(members, device)}" for device in devices[:3])
        more = f"; and {len(devices) - 3} more" if len(devices) > 3 else ""
        raise Problem(
            409,
            "No place for it",
            f"No device has a place for {model}: {some}{more}. Name one of its slots: --slot.",
        )
    _refuse_overlap(session, rollout, members)
    audit(session, actor, "rollout.create", str(rollout.id), model=model, version=version,
          scope=f"{scope_kind} {scope}", slot=rollout.slot)  # fmt: skip
    return rollout


def _why(members: list[Member], device: Device) -> str:
    return next((member.detail for member in members if member.device_id == device.id), "")


def busy_slots(session: Session, rollout: Rollout) -> set[tuple[int, str]]:
    """Devices and slots that other open rollouts have; a member that knows no slot yet takes that of its model."""
    rows = session.execute(
        select(Member.device_id, Member.slot, Rollout.model)
        .join(Rollout, Rollout.id == Member.rollout_id)
        .where(
            Rollout.id != rollout.id, Rollout.state.not_in(ENDED), Member.state != MemberState.SKIPPED.value
        )
    )
    return {(device, slot or f"?{model}") for device, slot, model in rows}


def _refuse_overlap(session: Session, rollout: Rollout, members: list[Member]) -> None:
    busy = busy_slots(session, rollout)
    wanted = {(m.device_id, m.slot or f"?{rollout.model}") for m in members if m.state != MemberState.SKIPPED}
    if not busy & wanted:
        return
    device, slot = min(busy & wanted)
    other = session.scalar(
        select(Rollout.id)
        .join(Member, Member.rollout_id == Rollout.id)
        .where(Rollout.id != rollout.id, Rollout.state.not_in(ENDED), Member.device_id == device,
               Member.slot == ("" if slot.startswith("?") else slot))
        .limit(1)
    )  # fmt: skip
    raise Problem(409, "Devices are busy", f"Rollout {other} has some of these devices: wait, or abort it.")


def add_members(
    session: Session, rollout: Rollout, plan: Plan, devices: list[Device], artifacts: list[ModelVersion],
    *, late: bool = False,
) -> list[Member]:  # fmt: skip
    """Add a member for each slot of `devices` that the model belongs in, and assign each device to a stage.

    The order is a hash of rollout and name: random, fair and reproducible. Devices without an artifact or a place are
    listed as skipped.
    """
    ranked = sorted(
        devices, key=lambda device: hashlib.sha256(f"{rollout.id}/{device.name}".encode()).digest()
    )
    slots = slots_of(session, [device.id for device in devices])
    named = rollout.scope_kind == "device"
    found = {
        device.id: places(slots[device.id], rollout.model, rollout.slot, named=named) for device in devices
    }
    fitting = [device for device in ranked if choose(artifacts, device.target) and found[device.id] != []]
    last = len(plan.stages) - 1
    stages = [last] * len(fitting) if late else assign(plan, [device.name for device in fitting])
    stage_of = {device.id: stage for device, stage in zip(fitting, stages, strict=True)}
    members: list[Member] = []
    for rank, device in enumerate(ranked):
        artifact, rows = choose(artifacts, device.target), {row.slot: row for row in slots[device.id]}
        spots = found[device.id]
        # Until the device has reported its slots, it chooses one itself.
        for slot in [rollout.slot] if spots is None else spots or [""]:
            member = Member(
                rollout_id=rollout.id, device_id=device.id, rank=rank, stage=stage_of.get(device.id, last), slot=slot,
                state=MemberState.WAITING.value, detail="", has_place=True,
            )  # fmt: skip
            if row := rows.get(slot):
                member.previous_model, member.previous_version = row.model, row.version
                member.previous_digest = row.digest
            elif spots is None:
                member.previous_model, member.previous_version = device.model, device.version
                member.previous_digest = device.digest
            _skip(member, rows, rollout, plan, device, artifact, fits=spots != [])
            members.append(member)
    session.add_all(members)
    session.flush()
    return members


def _skip(
    member: Member, rows: Mapping[str, DeviceSlot], rollout: Rollout, plan: Plan, device: Device,
    artifact: ModelVersion | None, *, fits: bool,
) -> None:  # fmt: skip
    """Leave a member out that has no artifact, no place, or nothing to do."""
    row = rows.get(member.slot)
    if artifact is None:
        detail = f"no artifact for {device.target or 'an unknown target'}"
    elif not fits:
        detail, member.has_place = no_place(list(rows.values()), rollout.slot), False
    elif row is not None and row.digest == artifact.digest and row.state in RUNS and not plan.repair:
        # A device that is named is asked all the same: it checks its copy, and fetches what is damaged.
        if rollout.scope_kind == "device":
            return
        detail = "runs this version already"
    else:
        return
    member.state, member.detail = MemberState.SKIPPED.value, detail


def get_rollout(session: Session, rollout_id: int) -> Rollout:
    """The rollout, locked against other writers.

    Raises:
        Problem: 404.
    """
    rollout = session.get(Rollout, rollout_id, with_for_update=True) if 0 < rollout_id < 2**63 else None
    if rollout is None:
        raise not_found("rollout", rollout_id)
    return rollout


_ALLOWED = {
    "pause": ({"RUNNING"}, "PAUSED"),
    "resume": ({"PAUSED"}, "RUNNING"),
    "approve": ({"AWAITING_APPROVAL"}, "RUNNING"),
}


def act(session: Session, actor: str, rollout_id: int, action: str) -> Rollout:
    """Pause, resume or approve.

    Raises:
        Problem: 404; 409 when the rollout is not in a state for that.
    """
    rollout = get_rollout(session, rollout_id)
    allowed, following = _ALLOWED[action]
    if rollout.state not in allowed:
        raise Problem(
            409, "Not possible now", f"Rollout {rollout_id} is {rollout.state}: it cannot {action}."
        )
    rollout.state = following
    rollout.reason = "" if action != "pause" else f"paused by {actor}"
    if action != "pause":
        rollout.stage_since = time.time()
    audit(session, actor, f"rollout.{action}", str(rollout_id))
    return rollout


def member_counts(session: Session, rollout_ids: list[int]) -> dict[int, dict[str, int]]:
    """Per rollout, how many members are in each state."""
    rows = session.execute(
        select(Member.rollout_id, Member.state, func.count())
        .where(Member.rollout_id.in_(rollout_ids))
        .group_by(Member.rollout_id, Member.state)
    )
    result: dict[int, dict[str, int]] = {rollout_id: {} for rollout_id in rollout_ids}
    for rollout_id, state, number in rows:
        result[rollout_id][state] = number
    return result


def stage_counts(session: Session, rollout_id: int) -> list[tuple[int, str, int]]:
    """Stage, state and number of a rollout's members."""
    return list(
        session.execute(
            select(Member.stage, Member.state, func.count())
            .where(Member.rollout_id == rollout_id)
            .group_by(Member.stage, Member.state)
        )
    )


def view(rollout: Rollout, counts: dict[str, int]) -> dict[str, Any]:
    """A rollout as the API shows it. `progress` is the share of members that are through; once it has ended, of those
    that run the version now."""
    through = sum(counts.values()) - counts.get("SKIPPED", 0)
    total = through or 1
    open_ones = sum(counts.get(state, 0) for state in ("WAITING", "ACTIVE", "REVERTING"))
    done = total - open_ones
    if rollout.state in ENDED:
        done = counts.get("SUCCEEDED", 0) if through else int(rollout.state == RolloutState.SUCCEEDED)
    return {
        "id": rollout.id,
        "model": rollout.model,
        "version": rollout.version,
        "slot": rollout.slot,
        "scope": {"kind": rollout.scope_kind, "name": rollout.scope},
        "plan": rollout.plan,
        "state": rollout.state,
        "stage": rollout.stage,
        "reason": rollout.reason,
        "verdicts": rollout.verdicts,
        "devices": counts,
        "progress": round(done / total, 4),
        "created_by": rollout.created_by,
        "created_at": rollout.created_at,
        "deadline": rollout.deadline,
        "finished_at": rollout.finished_at,
        "ended": rollout.state in ENDED,
    }
