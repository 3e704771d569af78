"""One rollout: its stages, devices and verdicts, and what an operator may do with it."""

from __future__ import annotations

import time
from typing import Any

from nicegui import ui
from sqlalchemy import case, func, select
from sqlalchemy.orm import Session

from edgec.fleet.access.identity import Identity
from edgec.fleet.dashboard import parts
from edgec.fleet.dashboard.charts import line_chart, show_lines
from edgec.fleet.dashboard.parts import ago, badge, esc, link
from edgec.fleet.dashboard.shell import (
    Pager,
    attempt,
    confirm,
    html,
    live,
)
from edgec.fleet.rollouts.judge import UPDATED, WAITING
from edgec.fleet.rollouts.sequential import MIN_SAMPLES
from edgec.fleet.rollouts.service import member_counts, stage_counts, view
from edgec.fleet.services import Services
from edgec.fleet.store.tables import Device, Member, Rollout, Telemetry

PAGE = 25


WINDOW_S = 3600.0


STATES = {
    "": "All devices", "FAILED": "Failed", "ACTIVE": "At work", "SUCCEEDED": "Updated", "WAITING": "Waiting",
    "UNREACHED": "Not reached", "SKIPPED": "Skipped", "REVERTED": "Taken back", "CANCELED": "Canceled",
}  # fmt: skip


def load_one(services: Services, rollout_id: int, wanted: dict[str, Any]) -> dict[str, Any] | None:
    """One rollout with its stages, a page of its members, and both groups' latency over time."""
    with services.database.reading() as session:
        rollout = session.get(Rollout, rollout_id) if rollout_id < 2**53 else None
        if rollout is None:
            return None
        stages: list[dict[str, int]] = [{} for _stage in rollout.plan["stages"]]
        for stage, state, n in stage_counts(session, rollout_id):
            stages[stage][state] = n
        query = (
            select(Member, Device.name)
            .join(Device, Device.id == Member.device_id)
            .where(Member.rollout_id == rollout_id)
        )
        if wanted["state"]:
            query = query.where(Member.state == wanted["state"])
        counts = member_counts(session, [rollout_id])[rollout_id]
        total = counts.get(wanted["state"], 0) if wanted["state"] else sum(counts.values())
        page = max(min(wanted["page"], (total - 1) // PAGE), 0)
        # Failed and active members come first.
        urgency = case(
            {"FAILED": 0, "REVERT_FAILED": 0, "ACTIVE": 1, "REVERTING": 1, "WAITING": 3},
            value=Member.state,
            else_=2,
        )
        rows = session.execute(
            query.order_by(urgency, Member.changed_at.desc(), Member.id).offset(page * PAGE).limit(PAGE)
        )
        members = [(name, m.stage, m.state, m.previous_version, m.changed_at, m.detail) for m, name in rows]
        return view(rollout, counts) | {
            "stages": stages,
            "members": members,
            "page": page,
            "total": total,
            "latency": latency_of_groups(session, rollout),
            "tick": int(time.time() / 5),
        }


def latency_of_groups(session: Session, rollout: Rollout) -> list[tuple[str, float, float]]:
    """Group, Unix time and mean latency in ms for each minute since the rollout, of at most 100 devices a group."""
    begin = max(rollout.created_at - 900, (rollout.finished_at or time.time()) - WINDOW_S)
    found: list[tuple[str, float, float]] = []
    for name, states in (("updated", UPDATED), ("others", WAITING)):
        chosen = (
            select(Member.device_id)
            .where(Member.rollout_id == rollout.id, Member.state.in_(states))
            .order_by(Member.rank)
            .limit(100)
        )
        minute = func.floor(Telemetry.at / 60)
        rows = session.execute(
            select(minute, func.avg(Telemetry.latency_ms))
            .where(
                Telemetry.device_id.in_(list(session.scalars(chosen))),
                Telemetry.stream == "",
                Telemetry.at > begin,
            )
            .group_by(minute)
            .order_by(minute)
        )
        found += [(name, 60.0 * at, value) for at, value in rows if value is not None]
    return found


def show_rollout(
    services: Services, rollout_id: int, wanted: dict[str, Any], buttons: Buttons, first: dict[str, Any]
) -> None:
    """Fill the page of a rollout and keep it up to date."""
    head = html()
    stages = html("", "e-card")
    with ui.element("div").classes("e-row wide-left"):
        with ui.element("div").classes("e-card"):
            html("<h2>Mean latency, updated devices beside the others</h2>")
            chart = line_chart("ms")
            verdicts = html("", "e-small")
        plan = html("", "e-card")
    with ui.element("div").classes("e-card flush"):
        with ui.element("div").classes("e-top").style("padding:12px 16px 0"):
            html("<h2 style='padding:0;margin:0'>Devices</h2>")
            picked = (
                ui.select(STATES, value="").props("outlined dense aria-label=State").style("min-width:150px")
            )
        members = html()
        pager = Pager(PAGE, lambda by: turn(by))

    def show(data: dict[str, Any] | None) -> None:
        if data is None:
            return
        buttons.show(data["state"])
        head.set_content(_head(data))
        stages.set_content("<h2>Stages</h2>" + _stages(data))
        show_lines(chart, data["latency"])
        verdicts.set_content(_verdicts(data))
        members.set_content(_members(data))
        pager.show(data["page"], data["total"])
        wanted["page"] = data["page"]
        plan.set_content("<h2>Plan</h2>" + _plan(data))

    async def turn(by: int) -> None:
        wanted["page"] += by
        await refresh()

    async def pick(state: str) -> None:
        wanted["state"], wanted["page"] = state, 0
        await refresh()

    picked.on_value_change(lambda e: pick(e.value))
    refresh = live(lambda: load_one(services, rollout_id, dict(wanted)), show, 1.0, first=first)


class Buttons:
    """What an operator may do with a rollout in its present state."""

    def __init__(self, services: Services, identity: Identity, rollout_id: int, place: Any) -> None:  # noqa: ANN401
        self._state = ""
        self._shown: dict[str, ui.button] = {}
        if not identity.may("operator"):
            return

        def change(action: str) -> None:
            services.change_rollout(identity.name, rollout_id, action)

        def stop(take_back: bool) -> None:
            services.abort_rollout(identity.name, rollout_id, take_back=take_back)

        async def back() -> None:
            await attempt(lambda: stop(True), "stopped; updated devices go back")

        async def halt() -> None:
            await attempt(lambda: stop(False), "stopped")

        with place:
            for action, text, icon in (
                ("pause", "Pause", "pause"),
                ("resume", "Resume", "play_arrow"),
                ("approve", "Approve next stage", "check"),
            ):
                button = ui.button(
                    text, icon=icon, on_click=lambda a=action: attempt(lambda: change(a), f"{a}: done")
                )
                self._shown[action] = button.props("outline" if action == "pause" else "unelevated")
            text = "No further device is started; those already updated return to what they ran before."
            opens = confirm("Abort and take back?", text, "Abort and take back", back)
            self._shown["back"] = ui.button("Abort and take back", on_click=opens).props(
                "flat color=negative"
            )
            text = "No further device is started; those already updated keep the new version."
            self._shown["halt"] = ui.button("Abort", on_click=confirm("Abort?", text, "Abort", halt)).props(
                "flat color=negative"
            )
        for button in self._shown.values():
            button.set_visibility(False)

    def show(self, state: str) -> None:
        """Show the buttons that fit `state`."""
        fitting = {
            "RUNNING": {"pause", "back", "halt"}, "PAUSED": {"resume", "back", "halt"},
            "AWAITING_APPROVAL": {"approve", "back", "halt"}, "ROLLING_BACK": {"halt"},
        }.get(state, set())  # fmt: skip
        for name, button in self._shown.items():
            button.set_visibility(name in fitting)


def _head(data: dict[str, Any]) -> str:
    counts = data["devices"]
    total = sum(counts.values())
    done = counts.get("SUCCEEDED", 0)
    failed = counts.get("FAILED", 0) + counts.get("REVERT_FAILED", 0)
    reason = f'<span class="e-soft">{esc(data["reason"])}</span>' if data["reason"] else ""
    if not data["ended"]:
        until, edge = data["deadline"] - time.time(), "ends at the latest in"
        edge += f" {until / 3600:.1f} h" if until > 3600 else f" {max(until / 60, 0):.0f} min"
    else:
        edge = f"ended {parts.passed(time.time() - data['finished_at'])}" if data["finished_at"] else ""
    return (
        f'<div style="margin:-8px 0 14px">{badge(data["state"])} {reason} <span class="e-faint">{edge}</span></div>'
        + parts.tiles(
            [
                parts.tile(done, "updated", of=total, tone="good" if done else ""),
                parts.tile(counts.get("ACTIVE", 0) + counts.get("REVERTING", 0), "at work"),
                parts.tile(counts.get("WAITING", 0), "waiting"),
                parts.tile(failed, "failed", tone="bad" if failed else ""),
                parts.tile(counts.get("UNREACHED", 0) + counts.get("SKIPPED", 0), "skipped or not reached"),
            ]
        )
    )


def _stages(data: dict[str, Any]) -> str:
    rows = []
    for index, (stage, counts) in enumerate(zip(data["plan"]["stages"], data["stages"], strict=True)):
        if stage["percent"] is not None:
            name = f"up to {stage['percent']:g} %"
        else:
            name = f"{stage['count']} devices" if stage["count"] else f"{len(stage['devices'])} named"
        soak = f", then {stage['soak_s'] / 60:g} min watch" if stage["soak_s"] else ""
        total = sum(counts.values())
        done = total - sum(counts.get(s, 0) for s in ("WAITING", "ACTIVE", "REVERTING"))
        reached = f"{parts.count(done)} of {parts.count(total)} done" if total else "no devices"
        later = " later" if index > data["stage"] and not data["ended"] else ""
        held = (
            badge("AWAITING_APPROVAL")
            if index == data["stage"] and data["state"] == "AWAITING_APPROVAL"
            else ""
        )
        rows.append(
            f'<div class="e-stage{later}"><div><b>Stage {index + 1}</b> <span class="e-soft">{esc(name)}{esc(soak)}</span></div>'
            f'{parts.bar(counts)}<div class="e-soft">{reached} {held}</div></div>'
        )
    return f'<div class="e-stages">{"".join(rows)}</div>'


def _members(data: dict[str, Any]) -> str:
    cells = [
        [f'<a class="main" href="{link("/devices", name)}">{esc(name)}</a>', badge(state), str(stage + 1), esc(before or "–"),
         f'<span class="e-soft">{esc(detail)}</span>', ago(changed)]
        for name, stage, state, before, changed, detail in data["members"]
    ]  # fmt: skip
    if not cells:
        return parts.empty("No such devices", "No device of this rollout is in that state now.")
    return parts.table(("Device", "State", "#~Stage", "~Before", "~Detail", "~Changed"), cells)


def _plan(data: dict[str, Any]) -> str:
    plan = data["plan"]
    facts = {
        "For": esc(parts.scope_name(data["scope"])),
        "Stops at": f"{plan['max_failed_percent']:g} % failed",
        "Then": "devices go back" if plan["on_failure"] == "rollback" else "stays as it is",
        "A stage needs": f"{plan['min_success_percent']:g} % success",
        "Time a device": f"{plan['job_timeout_s'] / 60:g} min",
        "Retries": str(plan["retries"]),
        "Rate": f"{plan['rate_per_minute']:g} a minute" if plan["rate_per_minute"] else "no limit",
        "Started by": esc(data["created_by"]),
    }
    return parts.pairs(facts)


def _judged(verdict: dict[str, Any]) -> str:
    if verdict["samples"][0] < MIN_SAMPLES:
        return badge("", "too early")
    return badge("failed", "worse") if verdict["against"] else badge("accepted", "fine")


RATIOS = ("latency", "event rate")


def _verdicts(data: dict[str, Any]) -> str:
    if not data["verdicts"]:
        criteria = data["plan"].get("criteria")
        text = (
            "Nothing to judge yet: it takes eight reports of updated devices."
            if criteria
            else ("The plan judges jobs only. edgec deploy --max-latency 1.5 judges what models report, too.")
        )
        return f'<div class="e-soft" style="padding:8px 2px">{text}</div>'
    rows = []
    for name, v in data["verdicts"].items():
        form = "×{:.2f}" if name in RATIOS else "{:+.4f}"
        share = min(v["evidence"] / v["needed"], 1.0)
        tone = "bad" if v["against"] else "accent"
        meter = f'<div class="e-bar" title="evidence {v["evidence"]:g} of {v["needed"]:g} that stop it"><i class="{tone}" style="width:{100 * share:.1f}%"></i></div>'
        rows.append(
            [esc(name), form.format(v["updated"]), form.format(v["control"]) if v["samples"][1] else "–",
             f"{parts.count(v['samples'][0])} / {parts.count(v['samples'][1])}", meter,
             _judged(v)]
        )  # fmt: skip
    heads = ("Change of", "#Updated", "#Others", "#~Reports", "~Evidence against it", "Verdict")
    return parts.table(heads, rows)
