"""The decisions of a rollout, over every kind of plan and luck."""

from __future__ import annotations

import random
from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from edgec.fleet.rollouts.decision import MemberView, Situation, assign, decide, stage_sizes
from edgec.fleet.rollouts.plan import MemberState, Plan, RolloutState

GOOD = (MemberState.SUCCEEDED,) * 3
LUCK = (*GOOD, MemberState.FAILED, MemberState.UNREACHED, MemberState.ACTIVE)


@st.composite
def plans(draw: st.DrawFn) -> Plan:
    shares = [*sorted(draw(st.lists(st.integers(1, 99), max_size=4, unique=True))), 100]
    stages = [
        {"percent": s, "soak_s": draw(st.sampled_from([0, 5])), "approval": draw(st.booleans())}
        for s in shares
    ]
    return Plan.model_validate(
        {
            "stages": stages,
            "max_failed_percent": draw(st.sampled_from([0, 20, 100])),
            "min_success_percent": draw(st.sampled_from([0, 80, 100])),
            "on_failure": draw(st.sampled_from(["rollback", "stop"])),
            "retries": draw(st.integers(0, 2)),
            "rate_per_minute": draw(st.sampled_from([None, 0.5, 10, 600])),
            "deadline_s": 120,
        }
    )


def run(plan: Plan, count: int, seed: int) -> tuple[Situation, list[str]]:
    """Simulate a rollout second by second, with jobs that end well, badly or never; the last situation and a log."""
    luck = random.Random(seed)
    stages = assign(plan, [f"d{i}" for i in range(count)])
    members = {
        i: MemberView(i, stage, MemberState.WAITING, has_previous=luck.random() < 0.8)
        for i, stage in enumerate(stages)
    }
    state = RolloutState.AWAITING_APPROVAL if plan.stages[0].approval else RolloutState.RUNNING
    situation = Situation(state, 0, 0.0, plan.deadline_s, 0.0, tuple(members.values()))
    log: list[str] = []
    for now in range(400):
        verdict = "worse" if luck.random() < 0.002 else ""
        situation = replace(situation, now=float(now), members=tuple(members.values()), verdict=verdict)
        decision = decide(plan, situation)
        for i in decision.cancel:
            members[i] = replace(members[i], state=MemberState.CANCELED)
        for i in decision.start:
            assert members[i].stage <= decision.stage, "nobody is started before its stage"
            assert members[i].attempts <= plan.retries
            members[i] = replace(
                members[i], state=MemberState.ACTIVE, attempts=members[i].attempts + 1, started_at=float(now)
            )
        for i in decision.revert:
            assert members[i].has_previous
            members[i] = replace(members[i], state=MemberState.REVERTING)
        since = float(now) if decision.stage != situation.stage or decision.start else situation.stage_since
        log.append(f"{now} {decision.state} {decision.stage} +{len(decision.start)} {decision.reason}")
        situation = replace(situation, state=decision.state, stage=decision.stage, stage_since=since)
        if decision.state.ended:
            break
        if decision.state is RolloutState.AWAITING_APPROVAL and luck.random() < 0.3:
            situation = replace(situation, state=RolloutState.RUNNING)
        for i, member in members.items():
            if member.state is MemberState.ACTIVE and luck.random() < 0.4:
                members[i] = replace(member, state=luck.choice(LUCK))
            elif member.state is MemberState.REVERTING and luck.random() < 0.4:
                members[i] = replace(
                    member, state=luck.choice((MemberState.REVERTED, MemberState.REVERT_FAILED))
                )
    return replace(situation, members=tuple(members.values())), log


@settings(max_examples=150, deadline=None)
@given(plans(), st.integers(1, 30), st.integers(0, 10_000))
def test_every_rollout_ends_with_exact_accounts(plan: Plan, count: int, seed: int) -> None:
    end, log = run(plan, count, seed)
    assert end.state.ended, log[-5:]
    states = [member.state for member in end.members]
    assert MemberState.REVERTING not in states
    assert MemberState.ACTIVE not in states, "no device is left with a job that nobody waits for"
    if end.state is RolloutState.SUCCEEDED:
        assert MemberState.WAITING not in states
    if plan.on_failure == "stop":
        assert end.state is not RolloutState.ROLLED_BACK


@settings(max_examples=200, deadline=None)
@given(plans(), st.integers(0, 10_000))
def test_stages_take_everyone_once(plan: Plan, total: int) -> None:
    sizes = stage_sizes(plan, total)
    assert sum(sizes) == total
    assert min(sizes) >= 0
    if total:
        assert sizes[0] >= 1, "a first stage of 1 % of 10 devices is one device, not none"


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 200), st.sampled_from([0.5, 3.0, 60.0]))
def test_the_rate_is_kept(count: int, rate: float) -> None:
    plan = Plan.model_validate({"rate_per_minute": rate, "deadline_s": 600})
    members = {i: MemberView(i, 0, MemberState.WAITING) for i in range(count)}
    started: list[float] = []
    for now in range(0, 300, 5):
        view = Situation(RolloutState.RUNNING, 0, 0.0, 600.0, float(now), tuple(members.values()))
        for i in decide(plan, view).start:
            members[i] = replace(members[i], state=MemberState.SUCCEEDED, attempts=1, started_at=float(now))
            started.append(float(now))
    assert started
    window = max(60.0, 60.0 / rate)
    for moment in started:
        assert sum(moment - window < at <= moment for at in started) <= rate * window / 60
