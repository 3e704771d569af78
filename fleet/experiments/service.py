"""Operations on experiments: start, view, stop."""

from __future__ import annotations

import time
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from edgec.fleet.audit.log import audit
from edgec.fleet.devices.slots import no_place, places, slots_of
from edgec.fleet.experiments.labels import label_finding, said
from edgec.fleet.experiments.verdict import Criteria
from edgec.fleet.groups.service import Scope, scope_query
from edgec.fleet.problems import Problem
from edgec.fleet.registry.versions import resolve
from edgec.fleet.rollouts.artifacts import artifacts_of, choose
from edgec.fleet.store.tables import Device, Experiment, Participant
from edgec.protocol.names import Name

OPEN = ("RUNNING", "ENDING")
MAX_DEVICES = 2000


class Plan(BaseModel):
    """How an experiment proceeds."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    streams: list[Name] = Field(
        default_factory=list, max_length=64, description="Empty for all that run the slot."
    )
    share: float = Field(0.2, gt=0, le=1, description="Share of the frames that the candidate processes.")
    duration_s: float = Field(86400.0, ge=10, le=90 * 86400)
    stop_when_decided: bool = True
    capture: bool = Field(
        False,
        description="Devices send pictures on which the two models differ, for people to say which is right.",
    )
    criteria: Criteria = Field(default_factory=lambda: Criteria.model_validate({}))


class NewExperiment(BaseModel):
    """An experiment to start. The candidate is compared with the model in `slot`; empty means the slot named like
    the model."""

    model_config = ConfigDict(extra="forbid")
    name: str = Field("", max_length=128)
    mode: Literal["shadow", "ab"] = "shadow"
    model: Name
    version: str = Field(min_length=1, max_length=64)
    slot: Name | None = None
    scope: Scope
    plan: Plan = Field(default_factory=lambda: Plan.model_validate({}))


def create_experiment(session: Session, actor: str, body: NewExperiment) -> Experiment:
    """Start an experiment on every device of the scope that has a fitting artifact and a place for the model.

    Raises:
        Problem: 404 for an unknown version, device or group; 409 when no device fits or has a place, too many do, or
        one is in another experiment.
    """
    body = body.model_copy(update={"version": resolve(session, body.model, body.version)})
    artifacts = artifacts_of(session, body.model, body.version)
    devices = session.scalars(
        scope_query(session, body.scope.kind, body.scope.name).limit(MAX_DEVICES + 1)
    ).all()
    fitting = [device for device in devices if choose(artifacts, device.target)]
    if not fitting:
        have = ", ".join(sorted({artifact.target for artifact in artifacts}))
        raise Problem(409, "No device fits", f"{body.model}:{body.version} exists only for {have}.")
    slots = slots_of(session, [device.id for device in fitting])
    named = body.scope.kind == "device"
    placed = [
        device
        for device in fitting
        if places(slots[device.id], body.model, body.slot or "", named=named) != []
    ]
    if not placed:
        why = "; ".join(f"{one.name}: {no_place(slots[one.id], body.slot or '')}" for one in fitting[:3])
        raise Problem(409, "No place for it", f"No device runs {body.model} or has a slot for it: {why}.")
    fitting = placed
    if len(devices) > MAX_DEVICES:
        raise Problem(
            409, "Too many devices", f"An experiment has at most {MAX_DEVICES} devices: choose a group."
        )
    busy = session.scalar(
        select(Experiment.id)
        .join(Participant, Participant.experiment_id == Experiment.id)
        .where(Experiment.state.in_(OPEN), Participant.device_id.in_([device.id for device in fitting]))
        .limit(1)
    )
    if busy:
        raise Problem(
            409, "Devices are busy", f"Experiment {busy} has some of these devices: wait, or stop it."
        )
    now = time.time()
    row = Experiment(
        name=body.name or f"{body.model}:{body.version}", mode=body.mode, model=body.model, version=body.version,
        slot=body.slot or body.model, scope_kind=body.scope.kind, scope=body.scope.name,
        plan=body.plan.model_dump(mode="json"), state="RUNNING", created_by=actor, created_at=now,
        deadline=now + body.plan.duration_s,
    )  # fmt: skip
    session.add(row)
    session.flush()
    session.add_all(Participant(experiment_id=row.id, device_id=device.id, state="NEW") for device in fitting)
    audit(
        session,
        actor,
        "experiment.create",
        str(row.id),
        model=body.model,
        version=body.version,
        mode=body.mode,
    )
    return row


def get_experiment(session: Session, number: int) -> Experiment:
    """The experiment.

    Raises:
        Problem: 404.
    """
    row = session.get(Experiment, number) if 0 < number < 2**53 else None
    if row is None:
        raise Problem(404, "Experiment not found", f"There is no experiment {number}.")
    return row


def stop_experiment(session: Session, actor: str, number: int) -> Experiment:
    """End an experiment; its devices return to their own model alone.

    Raises:
        Problem: 404; 409 when it has ended.
    """
    row = get_experiment(session, number)
    if row.state != "RUNNING":
        raise Problem(409, "Already ended", f"Experiment {number} is {row.state}.")
    row.state, row.reason = "ENDING", f"stopped by {actor}"
    audit(session, actor, "experiment.stop", str(number))
    return row


def participant_counts(session: Session, numbers: list[int]) -> dict[int, dict[str, int]]:
    """Per experiment, how many devices are in each state."""
    rows = session.execute(
        select(Participant.experiment_id, Participant.state, func.count())
        .where(Participant.experiment_id.in_(numbers))
        .group_by(Participant.experiment_id, Participant.state)
    )
    found: dict[int, dict[str, int]] = {number: {} for number in numbers}
    for number, state, devices in rows:
        found[number][state] = devices
    return found


def view(row: Experiment, counts: dict[str, int]) -> dict[str, Any]:
    """An experiment as the API represents it."""
    fields = (
        "id", "name", "mode", "model", "version", "slot", "plan", "state", "verdict", "reason", "created_by",
        "created_at", "deadline", "finished_at",
    )  # fmt: skip
    found = {field: getattr(row, field) for field in fields}
    nothing = {"confidence": 0.0, "frames": 0, "criteria": {}, "labels": None}
    return (
        found
        | {"scope": {"kind": row.scope_kind, "name": row.scope}, "devices": counts}
        | nothing
        | (row.findings or {})
    )


def view_now(session: Session, row: Experiment, counts: dict[str, int]) -> dict[str, Any]:
    """As `view`, with what labels say now: captures are still reviewed when the experiment has ended."""
    shown, plan = view(row, counts), Plan.model_validate(row.plan)
    labels = label_finding(session, row, plan.criteria.alpha)
    shown["labels"] = labels
    says = said(labels).says
    if row.state == "ENDED" and (says < 0 or (says > 0 and row.verdict in ("as-good", "differs"))):
        shown |= {"verdict": "better" if says > 0 else "worse", "confidence": labels["confidence"]}
    return shown


def participants(session: Session, number: int, after: int, limit: int) -> list[tuple[int, dict[str, Any]]]:
    """Devices of an experiment in order of their keys, after `after`."""
    rows = session.execute(
        select(Participant, Device.name)
        .join(Device, Device.id == Participant.device_id)
        .where(Participant.experiment_id == number, Participant.id > after)
        .order_by(Participant.id)
        .limit(limit)
    )
    return [
        (row.id, {"device": name, "state": row.state, "detail": row.detail, "changed_at": row.changed_at})
        for row, name in rows
    ]
