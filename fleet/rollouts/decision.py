"""The next step of a rollout: a pure function of its plan, its members and the time.

Nothing here reads a clock or a database, so that every path to an end can be tested.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from edgec.fleet.rollouts.plan import MemberState, Plan, RolloutState

_DONE = frozenset(MemberState) - {MemberState.WAITING, MemberState.ACTIVE, MemberState.REVERTING}


@dataclass(frozen=True, slots=True)
class MemberView:
    """A member of a rollout, as the decision sees it.

    Attributes:
        id: key of the member.
        stage: index of its stage.
        state: its state.
        attempts: jobs queued for it so far.
        started_at: Unix time when its current job was queued; 0 without one.
        has_previous: whether there is a version to return to.
        has_place: whether the device has a place for the model.
        device: key of the device, which may have several members; 0 if each is a device of its own.
    """

    id: int
    stage: int
    state: MemberState
    attempts: int = 0
    started_at: float = 0.0
    has_previous: bool = False
    has_place: bool = True
    device: int = 0


@dataclass(frozen=True, slots=True)
class Situation:
    """A rollout at one moment. Times are Unix seconds.

    Attributes:
        state: of the rollout.
        stage: index of the current stage.
        stage_since: when its last device was started.
        deadline: when the rollout ends at the latest.
        now: the present.
        members: all members.
        verdict: the finding against the new version; empty without one.
    """

    state: RolloutState
    stage: int
    stage_since: float
    deadline: float
    now: float
    members: Sequence[MemberView]
    verdict: str = ""


@dataclass(frozen=True, slots=True)
class Decision:
    """The next step of a rollout.

    Attributes:
        state: the next state of the rollout.
        stage: index of the next stage.
        reason: why; empty to keep the present reason.
        start: ids of members to start or retry.
        revert: ids of members to return to their previous version.
        cancel: ids of members to cancel.
    """

    state: RolloutState
    stage: int
    reason: str = ""
    start: list[int] = field(default_factory=list)
    revert: list[int] = field(default_factory=list)
    cancel: list[int] = field(default_factory=list)


def stage_sizes(plan: Plan, total: int) -> list[int]:
    """How many devices each stage adds, of `total` without those that stages name; the last one gets the rest."""
    sizes: list[int] = []
    taken = 0
    for index, stage in enumerate(plan.stages):
        if index == len(plan.stages) - 1:
            size = total - taken
        elif stage.percent is not None:
            size = math.ceil(total * stage.percent / 100) - taken
        else:
            size = stage.count or 0
        size = min(max(size, 0), total - taken)
        sizes.append(size)
        taken += size
    return sizes


def assign(plan: Plan, names: Sequence[str]) -> list[int]:
    """The stage of each device, in the order given; devices that a stage names belong to it."""
    named = {name: index for index, stage in enumerate(plan.stages) for name in stage.devices}
    free = [name for name in names if name not in named]
    sizes = stage_sizes(plan, len(free))
    places = [index for index, size in enumerate(sizes) for _ in range(size)]
    by_name = dict(zip(free, places, strict=True)) | {name: named[name] for name in names if name in named}
    return [by_name[name] for name in names]


def decide(plan: Plan, situation: Situation) -> Decision:
    """The next step of a rollout. Repeated calls always reach an end by the deadline."""
    members = situation.members
    if situation.state.ended:
        return Decision(situation.state, situation.stage)
    if situation.state is RolloutState.ROLLING_BACK:
        return _finish_rollback(situation)
    failed = sum(m.state is MemberState.FAILED and m.attempts > plan.retries for m in members)
    if situation.verdict:
        return _stop(plan, situation, situation.verdict)
    # The share is of all devices started so far: the first one to finish is not yet 100 %.
    stage_total = max(
        sum(m.stage <= situation.stage and m.state is not MemberState.SKIPPED for m in members), 1
    )
    if failed and 100 * failed / stage_total > plan.max_failed_percent:
        return _stop(
            plan,
            situation,
            f"{failed} of {stage_total} devices failed, more than {plan.max_failed_percent:g} %",
        )
    if situation.now >= situation.deadline:
        return _at_deadline(situation)
    if situation.state is not RolloutState.RUNNING:
        return Decision(situation.state, situation.stage)
    return _go_on(plan, situation)


def _go_on(plan: Plan, situation: Situation) -> Decision:
    current = [m for m in situation.members if m.stage <= situation.stage]
    waiting = [m for m in current if m.state is MemberState.WAITING]
    retry = [m for m in current if m.state is MemberState.FAILED and m.attempts <= plan.retries]
    if waiting or retry:
        start = [m.id for m in (*waiting, *retry)][: _allowance(plan, situation)]
        return Decision(RolloutState.RUNNING, situation.stage, start=start)
    if any(m.state is MemberState.ACTIVE for m in current):
        return Decision(RolloutState.RUNNING, situation.stage)
    reached = [m for m in current if m.state in (MemberState.SUCCEEDED, MemberState.FAILED)]
    good = sum(m.state is MemberState.SUCCEEDED for m in reached)
    if reached and 100 * good / len(reached) < plan.min_success_percent:
        return _stop(
            plan,
            situation,
            f"{good} of {len(reached)} devices succeeded, less than {plan.min_success_percent:g} %",
        )
    if situation.now < situation.stage_since + plan.stages[situation.stage].soak_s:
        return Decision(RolloutState.RUNNING, situation.stage)
    if situation.stage + 1 < len(plan.stages):
        following = situation.stage + 1
        held = plan.stages[following].approval
        state = RolloutState.AWAITING_APPROVAL if held else RolloutState.RUNNING
        return Decision(state, following, reason=f"stage {following + 1} waits for approval" if held else "")
    return _conclude(situation, reached)


def _number(members: Sequence[MemberView], state: MemberState) -> int:
    """How many devices have a member in `state`."""
    return len({m.device or -m.id for m in members if m.state is state})


def _conclude(situation: Situation, reached: Sequence[MemberView]) -> Decision:
    members = situation.members
    unreached = _number(members, MemberState.UNREACHED)
    if not reached and unreached:
        return Decision(
            RolloutState.FAILED, situation.stage, f"none of {unreached} devices took the job up in time"
        )
    if members and not any(m.has_place for m in members):
        return Decision(RolloutState.FAILED, situation.stage, "no device has a place for the model")
    skipped = [m for m in members if m.state is MemberState.SKIPPED]
    left = {
        "not reached": unreached,
        "left out as it has no place": _number([m for m in skipped if not m.has_place], MemberState.SKIPPED),
        "left out": _number([m for m in skipped if m.has_place], MemberState.SKIPPED),
    }
    rest = "".join(f", {number} {what}" for what, number in left.items() if number)
    good = _number(members, MemberState.SUCCEEDED)
    return Decision(RolloutState.SUCCEEDED, situation.stage, f"{good} {_devices(good)} updated{rest}")


def _devices(number: int) -> str:
    return "device" if number == 1 else "devices"


def _allowance(plan: Plan, situation: Situation) -> int:
    if plan.rate_per_minute is None:
        return len(situation.members)
    # Over a window of at least a minute, and long enough that slow rates are not rounded up.
    window = max(60.0, 60.0 / plan.rate_per_minute)
    recent = sum(m.attempts > 0 and m.started_at > situation.now - window for m in situation.members)
    return max(int(plan.rate_per_minute * window / 60) - recent, 0)


def _stop(plan: Plan, situation: Situation, reason: str) -> Decision:
    cancel = [m.id for m in situation.members if m.state in (MemberState.WAITING, MemberState.ACTIVE)]
    if plan.on_failure == "rollback":
        return rollback(situation, reason)
    return Decision(RolloutState.FAILED, situation.stage, reason, cancel=cancel)


def rollback(situation: Situation, reason: str) -> Decision:
    """Cancel members that have not finished and revert those that have, if they ran another version before."""
    cancel = [m.id for m in situation.members if m.state in (MemberState.WAITING, MemberState.ACTIVE)]
    touched = (MemberState.SUCCEEDED, MemberState.ACTIVE)
    revert = [m.id for m in situation.members if m.state in touched and m.has_previous]
    if not revert:
        return Decision(RolloutState.FAILED, situation.stage, reason, cancel=cancel)
    return Decision(RolloutState.ROLLING_BACK, situation.stage, reason, revert=revert, cancel=cancel)


def _finish_rollback(situation: Situation) -> Decision:
    if any(m.state is MemberState.REVERTING for m in situation.members):
        return Decision(RolloutState.ROLLING_BACK, situation.stage)
    lost = sum(m.state is MemberState.REVERT_FAILED for m in situation.members)
    note = f"{lost} devices could not be taken back" if lost else ""
    return Decision(RolloutState.ROLLED_BACK, situation.stage, note)


def _at_deadline(situation: Situation) -> Decision:
    done = [m for m in situation.members if m.state in _DONE]
    good = _number(done, MemberState.SUCCEEDED)
    open_ones = len(situation.members) - len(done)
    if open_ones == 0:
        reached = [m for m in done if m.state in (MemberState.SUCCEEDED, MemberState.FAILED)]
        return _conclude(situation, reached)
    # Devices that were off do not count against the version: what runs well stays, what has not finished is
    # canceled.
    reason = f"the deadline passed with {good} devices updated and {open_ones} not finished"
    cancel = [m.id for m in situation.members if m.state in (MemberState.WAITING, MemberState.ACTIVE)]
    return Decision(RolloutState.FAILED, situation.stage, reason, cancel=cancel)
