"""Carries out the decisions of `edgec.fleet.rollouts.decision`: jobs out, results in, one transaction per rollout.

Several processes may run an engine on one database: only the process that holds a rollout's lease advances it.
"""

from __future__ import annotations

import logging
import time

from sqlalchemy import select
from sqlalchemy.orm import Session, defer

from edgec.fleet.audit.log import audit
from edgec.fleet.broker.messages import Publisher
from edgec.fleet.groups.service import scope_query
from edgec.fleet.jobs.service import expire_jobs, notify
from edgec.fleet.problems import Problem
from edgec.fleet.rollouts.artifacts import artifacts_of
from edgec.fleet.rollouts.decision import Decision, MemberView, Situation, decide, rollback
from edgec.fleet.rollouts.dispatch import (
    Addresses,
    cancel_member,
    drop_wish,
    keep_wish,
    lose_way_back,
    send_updates,
)
from edgec.fleet.rollouts.judge import judge
from edgec.fleet.rollouts.plan import MemberState, Plan, RolloutState
from edgec.fleet.rollouts.service import ENDED, add_members, get_rollout
from edgec.fleet.store.database import Database
from edgec.fleet.store.leased import LeasedWorker
from edgec.fleet.store.tables import Device, Job, Member, Rollout
from edgec.protocol.jobs import NO_SLOT

log = logging.getLogger(__name__)

_FROM_JOB = {
    "SUCCEEDED": MemberState.SUCCEEDED,
    "FAILED": MemberState.FAILED,
    "REJECTED": MemberState.FAILED,
    "CANCELED": MemberState.CANCELED,
}


class RolloutEngine(LeasedWorker):
    """Advances every rollout that has not ended."""

    name = "rollouts"

    def __init__(self, database: Database, publisher: Publisher, addresses: Addresses) -> None:
        super().__init__()
        self._database = database
        self._publisher = publisher
        self._addresses = addresses

    def tick(self, now: float | None = None) -> None:
        """Advance everything once."""
        moment = time.time() if now is None else now
        with self._database.reading() as session:
            open_ones = list(session.scalars(select(Rollout.id).where(Rollout.state.not_in(ENDED))))
            late = session.scalar(
                select(Job.id)
                .where(Job.state.in_(("QUEUED", "IN_PROGRESS")), Job.expires_at < moment)
                .limit(1)
            )
        if late:
            with self._database.writing() as session:
                touched = expire_jobs(session, moment)
            notify(self._database, self._publisher, self._addresses.fleet, touched)
        for rollout_id in open_ones:
            if self._stop.is_set():
                return
            self.advance(rollout_id, moment)

    def advance(self, rollout_id: int, now: float) -> None:
        """Advance one rollout, if this process gets its lease; then notify the devices concerned."""
        with self._database.writing() as session:
            if not self.lease(session, Rollout, rollout_id, now):
                return
            rollout = session.get_one(Rollout, rollout_id, populate_existing=True)
            touched = _advance(session, rollout, now, self._addresses)
        notify(self._database, self._publisher, self._addresses.fleet, touched)

    def abort(self, rollout_id: int, actor: str, *, take_back: bool) -> Rollout:
        """Stop a rollout now; with `take_back` updated devices return to what they ran before.

        Raises:
            Problem: 404; 409 when it has ended.
        """
        now = time.time()
        with self._database.writing() as session:
            rollout = get_rollout(session, rollout_id)
            if rollout.state in ENDED:
                raise Problem(409, "Already ended", f"Rollout {rollout_id} is {rollout.state}.")
            members = _members(session, rollout)
            situation = _situation(session, rollout, members, now, "")
            reason = f"aborted by {actor}"
            open_ones = (MemberState.WAITING, MemberState.ACTIVE, MemberState.REVERTING)
            cancel = [m.id for m in situation.members if m.state in open_ones]
            decision = Decision(RolloutState.ABORTED, rollout.stage, reason, cancel=cancel)
            if take_back:
                back = rollback(situation, reason)
                if back.revert:
                    decision = back
            touched = _apply(session, rollout, decision, members, now, self._addresses)
            audit(session, actor, "rollout.abort", str(rollout_id), take_back=take_back)
        notify(self._database, self._publisher, self._addresses.fleet, touched)
        return rollout


def _members(session: Session, rollout: Rollout) -> dict[int, Member]:
    rows = session.scalars(
        select(Member).filter_by(rollout_id=rollout.id).order_by(Member.stage, Member.rank)
    )
    return {member.id: member for member in rows}


def _advance(session: Session, rollout: Rollout, now: float, addresses: Addresses) -> set[int]:
    if rollout.state in ENDED:
        return set()
    plan = Plan.model_validate(rollout.plan)
    members = _members(session, rollout)
    touched: set[int] = set()
    if _join(session, rollout, plan, members):
        members = _members(session, rollout)
    _collect(session, members, now)
    verdict = ""
    if plan.criteria and rollout.state in ("RUNNING", "PAUSED", "AWAITING_APPROVAL"):
        verdict = judge(session, rollout, plan.criteria, list(members.values()), now)
    # Several steps may follow at once, such as the end of a stage and the start of the next.
    for _step in range(len(plan.stages) + 2):
        decision = decide(plan, _situation(session, rollout, members, now, verdict))
        before = (rollout.state, rollout.stage)
        touched |= _apply(session, rollout, decision, members, now, addresses)
        if (rollout.state, rollout.stage) == before or rollout.state in ENDED:
            break
    return touched


def _join(session: Session, rollout: Rollout, plan: Plan, members: dict[int, Member]) -> bool:
    """Add devices that joined the group since then to the last stage, under the same limits."""
    if rollout.scope_kind == "device" or rollout.state == RolloutState.ROLLING_BACK:
        return False
    try:
        query = scope_query(session, rollout.scope_kind, rollout.scope)
        artifacts = artifacts_of(session, rollout.model, rollout.version)
    except Problem:  # The group or the version was deleted meanwhile: the members of the rollout go on.
        return False
    known = select(Member.device_id).filter_by(rollout_id=rollout.id)
    busy = (
        select(Member.device_id)
        .join(Rollout, Rollout.id == Member.rollout_id)
        .where(Rollout.model == rollout.model, Rollout.state.not_in(ENDED))
    )
    new = list(session.scalars(query.where(Device.id.not_in(known), Device.id.not_in(busy))))
    if new:
        add_members(session, rollout, plan, new, artifacts, late=True)
        session.flush()
    return bool(new)


def _collect(session: Session, members: dict[int, Member], now: float) -> None:
    """Transfer the results of ended jobs to the members."""
    open_ones = {m.job_id: m for m in members.values() if m.state in ("ACTIVE", "REVERTING") and m.job_id}
    ids = list(open_ones)
    for start in range(0, len(ids), 500):
        for job in session.scalars(select(Job).where(Job.id.in_(ids[start : start + 500]))):
            member = open_ones[job.id]
            if job.finished_at is None:
                undecided = str(job.detail.get("undecided") or "")[:480]
                member.detail = f"undecided: {undecided}" if undecided else ""
                continue
            _collect_one(session, member, job)
            member.changed_at = now


def _collect_one(session: Session, member: Member, job: Job) -> None:
    member.detail = reason = str(job.detail.get("message", ""))[:500]
    if not member.slot:
        member.slot = str(job.detail.get("slot", ""))[:64]
    if member.state == "REVERTING":
        member.state = "REVERTED" if job.state == "SUCCEEDED" else "REVERT_FAILED"
        if job.state != "SUCCEEDED":
            lose_way_back(session, member, reason)
            return
    elif job.state == "TIMED_OUT":
        member.state = (MemberState.FAILED if job.started_at else MemberState.UNREACHED).value
    elif job.state == "REJECTED" and _has_no_slot(job):
        member.state, member.has_place = MemberState.SKIPPED.value, False
    else:
        member.state = _FROM_JOB[job.state].value
    if job.state == "SUCCEEDED":
        keep_wish(session, member, job)
    else:
        drop_wish(session, member, reason)


def _has_no_slot(job: Job) -> bool:
    """Whether a device rejected a job for want of a slot; agents from before the code say so in their message only."""
    if "code" in job.detail:
        return bool(job.detail["code"] == NO_SLOT)
    return str(job.detail.get("message", "")).startswith("this device has no slot for the model")


def _situation(
    session: Session, rollout: Rollout, members: dict[int, Member], now: float, verdict: str
) -> Situation:
    views = [
        MemberView(
            id=member.id,
            stage=member.stage,
            state=MemberState(member.state),
            attempts=member.attempts,
            started_at=member.changed_at if member.attempts else 0.0,
            has_previous=bool(member.previous_version),
            has_place=member.has_place,
            device=member.device_id,
        )
        for member in members.values()
    ]
    return Situation(
        RolloutState(rollout.state), rollout.stage, rollout.stage_since, rollout.deadline, now, views, verdict
    )


def _said(session: Session, rollout: Rollout, decision: Decision, members: dict[int, Member]) -> str:
    """What the first device that failed gave as its reason."""
    if decision.state in (RolloutState.SUCCEEDED, RolloutState.ABORTED):
        return ""
    order = (MemberState.FAILED, MemberState.REVERT_FAILED, MemberState.CANCELED)
    failed = [member for member in members.values() if member.state in order and member.detail]
    if not failed:
        return ""
    first = min(failed, key=lambda one: (order.index(MemberState(one.state)), one.changed_at, one.id))
    name = session.get_one(Device, first.device_id, options=[defer(Device.health)]).name
    return f" ({name}: {first.detail})"


def _apply(
    session: Session,
    rollout: Rollout,
    decision: Decision,
    members: dict[int, Member],
    now: float,
    addresses: Addresses,
) -> set[int]:
    touched: set[int] = set()
    for member_id in decision.cancel:
        touched |= cancel_member(session, members[member_id], now)
    if decision.start:
        touched |= send_updates(
            session, rollout, [members[i] for i in decision.start], now, addresses, back=False
        )
    if decision.revert:
        touched |= send_updates(
            session, rollout, [members[i] for i in decision.revert], now, addresses, back=True
        )
    if decision.stage != rollout.stage:
        rollout.stage, rollout.stage_since = decision.stage, now
    elif decision.start:
        rollout.stage_since = now  # The soak time of a stage counts from the start of its last device.
    if decision.state.value != rollout.state:
        rollout.state = decision.state.value
        if decision.state.ended:
            rollout.finished_at = now
        log.info("rollout %d of %s:%s is %s", rollout.id, rollout.model, rollout.version, rollout.state)
    if decision.reason:
        joined = rollout.state == RolloutState.ROLLED_BACK and rollout.reason
        said = "" if joined else _said(session, rollout, decision, members)
        rollout.reason = f"{rollout.reason}; {decision.reason}" if joined else decision.reason + said
    session.flush()
    return touched
