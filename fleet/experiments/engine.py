"""Runs experiments with ordinary messages: slot and candidate are configured through the shadow, the artifact is
installed by a job.

A device goes `NEW` → `SLOT` (the shadow requests a second slot) → `INSTALL` (an update job fills it) →
`RUNNING` (the shadow names it as the streams' candidate, health reports are read) → `DONE` (the shadow takes both
back), or `FAILED`. Several processes may run an engine on one database: only the process that holds an experiment's
lease advances it.
"""

from __future__ import annotations

import logging
import time
from collections import defaultdict
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from edgec.fleet.broker.messages import Publisher, Reply
from edgec.fleet.devices.shadows import change_shadow
from edgec.fleet.devices.slots import CANDIDATE_SLOT
from edgec.fleet.experiments.labels import label_finding, said
from edgec.fleet.experiments.readings import comparable, counters_of, reading
from edgec.fleet.experiments.service import OPEN, Plan
from edgec.fleet.experiments.verdict import judge
from edgec.fleet.jobs.service import ENDED, create_job, end_job, notify
from edgec.fleet.problems import Problem
from edgec.fleet.rollouts.artifacts import artifacts_of, choose
from edgec.fleet.rollouts.dispatch import Addresses, update_document
from edgec.fleet.rollouts.plan import Plan as RolloutPlan
from edgec.fleet.store.database import Database
from edgec.fleet.store.leased import LeasedWorker
from edgec.fleet.store.tables import Device, Experiment, Job, ModelVersion, Participant, Reading, Shadow
from edgec.protocol.shadow import ShadowState, ShadowUpdate
from edgec.protocol.topics import Kind, ParsedTopic

SHADOW = "config"
READINGS = 20_000
log = logging.getLogger(__name__)


class Work:
    """What one pass over an experiment has to publish once its transaction is committed."""

    def __init__(self) -> None:
        self.replies: list[Reply] = []
        self.notify: set[int] = set()


class ExperimentEngine(LeasedWorker):
    """Advances every experiment that is open."""

    name = "experiments"

    def __init__(self, database: Database, publisher: Publisher, addresses: Addresses) -> None:
        super().__init__()
        self._database = database
        self._publisher = publisher
        self._addresses = addresses

    def tick(self, now: float | None = None) -> None:
        """Advance everything once."""
        moment = time.time() if now is None else now
        with self._database.reading() as session:
            ids = list(session.scalars(select(Experiment.id).where(Experiment.state.in_(OPEN))))
        for number in ids:
            work = Work()
            with self._database.writing() as session:
                if self.lease(session, Experiment, number, moment):
                    row = session.get_one(Experiment, number, populate_existing=True)
                    advance(session, row, moment, self._addresses, work)
            for reply in work.replies:
                self._publisher.publish(reply.topic, reply.payload)
            notify(self._database, self._publisher, self._addresses.fleet, work.notify)


def advance(session: Session, row: Experiment, now: float, addresses: Addresses, work: Work) -> None:
    """Advance one experiment as far as possible now."""
    plan = Plan.model_validate(row.plan)
    members = session.execute(
        select(Participant, Device)
        .join(Device, Device.id == Participant.device_id)
        .where(Participant.experiment_id == row.id)
    ).all()  # fmt: skip
    if row.state == "ENDING":
        for member, device in members:
            if member.state not in ("DONE", "FAILED"):
                take_back(session, row, member, device, now, addresses, work)
        row.state, row.finished_at = "ENDED", now
        return
    try:
        artifacts = artifacts_of(session, row.model, row.version)
    except Problem:
        _end(row, f"{row.model}:{row.version} is no longer in the registry")
        return
    for member, device in members:
        _step(session, row, plan, member, device, artifacts, now, addresses, work)
    session.flush()
    _judge(session, row, plan)
    states = {member.state for member, _device in members}
    if row.state == "ENDING":
        return
    if states <= {"FAILED"}:
        _end(row, "no device could take the candidate")
    elif now >= row.deadline:
        _end(row, "the time is up")
    elif _decided(row, plan):
        _end(row, f"decided: {row.verdict}")


def _decided(row: Experiment, plan: Plan) -> bool:
    """Whether there is nothing left to find out: of models that differ, the captures may tell which one is right."""
    return plan.stop_when_decided and row.verdict not in ("undecided", *(["differs"] * plan.capture))


def _end(row: Experiment, reason: str) -> None:
    row.state, row.reason = "ENDING", reason


def _step(
    session: Session, row: Experiment, plan: Plan, member: Participant, device: Device,
    artifacts: list[ModelVersion], now: float, addresses: Addresses, work: Work,
) -> None:  # fmt: skip
    if member.state == "NEW":
        _patch(session, row, device, {"models": {row_slot(row): {}}}, now, addresses, work)
        _to(member, "SLOT", now)
    elif member.state == "SLOT":
        shadow = session.get(Shadow, (device.id, SHADOW))
        reported = shadow.reported if shadow else {}
        if row_slot(row) in (reported.get("models") or {}):
            _install(session, row, member, device, artifacts, now, addresses, work)
        elif reported.get("errors") and shadow and shadow.updated_at > member.changed_at:
            _fail(session, row, member, device, str(reported["errors"]), now, addresses, work)
    elif member.state == "INSTALL":
        job = session.get(Job, member.job_id)
        if job is None or (job.state in ENDED and job.state != "SUCCEEDED"):
            why = str(job.detail.get("message", job.state)) if job else "the job was deleted"
            _fail(session, row, member, device, why, now, addresses, work)
        elif job.state == "SUCCEEDED":
            streams = streams_of(row, plan, device)
            if not streams:
                _fail(
                    session,
                    row,
                    member,
                    device,
                    f"no stream runs the slot {own_slot(row, device)}",
                    now,
                    addresses,
                    work,
                )
                return
            candidate = {"model": row_slot(row), "mode": row.mode, "share": plan.share}
            more = {"capture": {"disagreement": True}} if plan.capture else {}
            wanted = {"streams": {name: {"candidate": candidate} | more for name in streams}}
            _patch(session, row, device, wanted, now, addresses, work)
            member.counters = {"streams": streams}
            _to(member, "RUNNING", now)
    elif member.state == "RUNNING" and (device.health or {}).get("time") != member.counters.get("time"):
        _read(session, row, member, device, now)


def _install(
    session: Session, row: Experiment, member: Participant, device: Device, artifacts: list[ModelVersion],
    now: float, addresses: Addresses, work: Work,
) -> None:  # fmt: skip
    artifact = choose(artifacts, device.target)
    if artifact is None:
        _fail(session, row, member, device, f"no artifact for {device.target}", now, addresses, work)
        return
    document = update_document(artifact, device, addresses, RolloutPlan.model_validate({}))
    document["slot"] = row_slot(row)
    left = max(row.deadline - now, 1.0)
    job = create_job(session, device, document, purpose="experiment", timeout_s=left, now=now)
    member.job_id = job.id
    work.notify.add(device.id)
    _to(member, "INSTALL", now)


def row_slot(row: Experiment) -> str:
    """The slot that the candidate runs in, on every device."""
    return f"{CANDIDATE_SLOT}{row.id}"


def own_slot(row: Experiment, device: Device) -> str:
    """The slot on a device that the candidate is compared with: the experiment's, else the one that runs the model."""
    running = {one.get("slot", ""): one.get("name", "") for one in (device.health or {}).get("models", [])}
    if row.slot in running:
        return row.slot
    using = (
        slot for slot, model in running.items() if model == row.model and not slot.startswith(CANDIDATE_SLOT)
    )
    return next(using, row.slot)


def streams_of(row: Experiment, plan: Plan, device: Device) -> list[str]:
    """The participating streams: those that the plan names, else all that run the slot."""
    found, slot = device.health.get("streams", []), own_slot(row, device)
    return [
        one["name"] for one in found
        if (one["name"] in plan.streams if plan.streams else one.get("model") == slot)
    ]  # fmt: skip


def _to(member: Participant, state: str, now: float, detail: str = "") -> None:
    member.state, member.changed_at, member.detail = state, now, detail


def _fail(
    session: Session, row: Experiment, member: Participant, device: Device, why: str, now: float,
    addresses: Addresses, work: Work,
) -> None:  # fmt: skip
    take_back(session, row, member, device, now, addresses, work)
    _to(member, "FAILED", now, why[:500])


def take_back(
    session: Session,
    row: Experiment,
    member: Participant,
    device: Device,
    now: float,
    addresses: Addresses,
    work: Work,
) -> None:
    """Remove slot and candidate from a device's configuration."""
    if member.job_id and (job := session.get(Job, member.job_id)):
        end_job(job, "CANCELED", now, "the experiment has ended")
        work.notify.add(device.id)
    gone: dict[str, Any] = {"models": {row_slot(row): None}}
    if streams := member.counters.get("streams"):
        more = {"capture": {"disagreement": None}} if Plan.model_validate(row.plan).capture else {}
        gone["streams"] = {name: {"candidate": None} | more for name in streams}
    _patch(session, row, device, gone, now, addresses, work)
    _to(member, "DONE", now)


def _patch(
    session: Session,
    row: Experiment,
    device: Device,
    patch: dict[str, Any],
    now: float,
    addresses: Addresses,
    work: Work,
) -> None:
    topic = ParsedTopic(addresses.fleet, device.name, Kind.SHADOW_UPDATE, SHADOW)
    update = ShadowUpdate(state=ShadowState(desired=patch))
    work.replies += change_shadow(session, device, topic, update, now)


def _read(session: Session, row: Experiment, member: Participant, device: Device, now: float) -> None:
    streams = list(member.counters.get("streams", []))
    after = counters_of(device.health, own_slot(row, device), row_slot(row), streams)
    if not comparable(member.counters, after):
        member.counters = after | {"streams": streams}
        return
    frames, values = reading(member.counters, after)
    if frames > 0 and values:
        session.add(Reading(experiment_id=row.id, device_id=device.id, at=now, frames=frames, values=values))
        member.counters = after | {"streams": streams}


def _judge(session: Session, row: Experiment, plan: Plan) -> None:
    rows = session.execute(
        select(Reading.values, Reading.frames)
        .where(Reading.experiment_id == row.id)
        .order_by(Reading.id)
        .limit(READINGS)
    )
    values: dict[str, list[float]] = defaultdict(list)
    frames = 0
    for found, number in rows:
        frames += number
        for name, value in found.items():
            values[name].append(value)
    labels = label_finding(session, row, plan.criteria.alpha)
    row.verdict, confidence, findings = judge(row.mode, plan.criteria, values, said(labels))
    row.findings = {"confidence": confidence, "frames": frames, "criteria": findings, "labels": labels}
