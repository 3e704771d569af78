"""Operations on rollouts: start, view, pause, resume, approve."""

from __future__ import annotations

import hashlib
import time
from typing import Any

from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from edgec.fleet.audit.log import audit
from edgec.fleet.groups.service import Scope, scope_query
from edgec.fleet.problems import Problem, not_found
from edgec.fleet.rollouts.artifacts import artifacts_of, choose
from edgec.fleet.rollouts.decision import assign
from edgec.fleet.rollouts.plan import MemberState, Plan, RolloutState
from edgec.fleet.store.tables import Device, Member, ModelVersion, Rollout
from edgec.protocol.names import Name

ENDED = [state.value for state in RolloutState if state.ended]


class NewRollout(BaseModel):
    """A rollout to start."""

    model_config = ConfigDict(extra="forbid")
    model: Name
    version: str = Field(min_length=1, max_length=64)
    scope: Scope
    plan: Plan = Field(default_factory=lambda: Plan.model_validate({}))


def create_rollout(session: Session, actor: str, wanted: NewRollout) -> Rollout:
    """Start a rollout.

    Raises:
        Problem: 404 for an unknown version, device or group; 409 when no device fits or one is busy with
        another.
    """
    model, version, plan = wanted.model, wanted.version, wanted.plan
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
    _refuse_overlap(session, model, [device.id for device in devices])
    now = time.time()
    held = plan.stages[0].approval
    rollout = Rollout(
        model=model,
        version=version,
        scope_kind=scope_kind,
        scope=scope,
        plan=plan.model_dump(mode="json"),
        state=(RolloutState.AWAITING_APPROVAL if held else RolloutState.RUNNING).value,
        stage_since=now,
        created_by=actor,
        deadline=now + plan.deadline_s,
        created_at=now,
    )
    session.add(rollout)
    session.flush()
    add_members(session, rollout, plan, devices, artifacts)
    audit(
        session,
        actor,
        "rollout.create",
        str(rollout.id),
        model=model,
        version=version,
        scope=f"{scope_kind} {scope}",
    )
    return rollout


def _refuse_overlap(session: Session, model: str, device_ids: list[int]) -> None:
    busy = session.scalar(
        select(Rollout.id)
        .join(Member, Member.rollout_id == Rollout.id)
        .where(Rollout.model == model, Rollout.state.not_in(ENDED), Member.device_id.in_(device_ids))
        .limit(1)
    )
    if busy:
        raise Problem(
            409,
            "Devices are busy",
            f"Rollout {busy} of {model} has some of these devices: wait, or abort it.",
        )


def add_members(
    session: Session, rollout: Rollout, plan: Plan, devices: list[Device], artifacts: list[ModelVersion],
    *, late: bool = False,
) -> None:  # fmt: skip
    """Assign each device to a stage. The order is a hash of rollout and name: random, fair and reproducible."""
    ranked = sorted(
        devices, key=lambda device: hashlib.sha256(f"{rollout.id}/{device.name}".encode()).digest()
    )
    fitting = [device for device in ranked if choose(artifacts, device.target)]
    stages = (
        [len(plan.stages) - 1] * len(fitting) if late else assign(plan, [device.name for device in fitting])
    )
    places = {device.id: stage for device, stage in zip(fitting, stages, strict=True)}
    for rank, device in enumerate(ranked):
        artifact = choose(artifacts, device.target)
        state, detail = MemberState.WAITING, ""
        if artifact is None:
            state, detail = MemberState.SKIPPED, f"no artifact for {device.target or 'an unknown target'}"
        elif device.model == rollout.model and device.digest == artifact.digest:
            state, detail = MemberState.SKIPPED, "runs this version already"
        session.add(
            Member(
                rollout_id=rollout.id,
                device_id=device.id,
                rank=rank,
                stage=places.get(device.id, len(plan.stages) - 1),
                state=state.value,
                detail=detail,
                previous_model=device.model,
                previous_version=device.version,
            )
        )


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
    """A rollout as the API shows it; `progress` is the share of members that are through."""
    total = sum(counts.values()) or 1
    open_ones = sum(counts.get(state, 0) for state in ("WAITING", "ACTIVE", "REVERTING"))
    return {
        "id": rollout.id,
        "model": rollout.model,
        "version": rollout.version,
        "scope": {"kind": rollout.scope_kind, "name": rollout.scope},
        "plan": rollout.plan,
        "state": rollout.state,
        "stage": rollout.stage,
        "reason": rollout.reason,
        "verdicts": rollout.verdicts,
        "devices": counts,
        "progress": round(1 - open_ones / total, 4),
        "created_by": rollout.created_by,
        "created_at": rollout.created_at,
        "deadline": rollout.deadline,
        "finished_at": rollout.finished_at,
        "ended": rollout.state in ENDED,
    }
