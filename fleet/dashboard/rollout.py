"""One rollout: its stages, devices and verdicts, and what an operator may do with it."""

from __future__ import annotations

import time
from typing import Any

from nicegui import ui
from sqlalchemy import case, func, select
from sqlalchemy.orm import Session

from edgec.fleet.access.identity import Identity
from edgec.fleet.dashboard.charts import line_chart, show_lines
from edgec.fleet.dashboard.rollout_parts import header, member_table, plan_facts, stage_list, verdict_table
from edgec.fleet.dashboard.shell import (
    Pager,
    attempt,
    confirm,
    html,
    live,
)
from edgec.fleet.rollouts.judge import UPDATED, WAITING
from edgec.fleet.rollouts.service import member_counts, stage_counts, view
from edgec.fleet.services import Services
from edgec.fleet.store.tables import Device, Member, Rollout, Telemetry

PAGE = 25


WINDOW_S = 3600.0


STATES = {
    "": "All devices", "FAILED": "Failed", "ACTIVE": "At work", "SUCCEEDED": "Updated", "WAITING": "Waiting",
    "UNREACHED": "Not reached", "SKIPPED": "Left out", "REVERTED": "Taken back", "CANCELED": "Canceled",
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
        members = [
            (name, m.slot, m.stage, m.state, m.previous_version, m.changed_at, m.detail) for m, name in rows
        ]
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
        head.set_content(header(data))
        stages.set_content("<h2>Stages</h2>" + stage_list(data))
        show_lines(chart, data["latency"])
        verdicts.set_content(verdict_table(data))
        members.set_content(member_table(data))
        pager.show(data["page"], data["total"])
        wanted["page"] = data["page"]
        plan.set_content("<h2>Plan</h2>" + plan_facts(data))

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
