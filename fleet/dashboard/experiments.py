"""Experiments: the list, one with what each criterion shows, and the dialog that starts one."""

from __future__ import annotations

import time
from typing import Any

from nicegui import run, ui
from pydantic import ValidationError
from sqlalchemy import select
from starlette.requests import Request
from starlette.responses import Response

from edgec.fleet.access.identity import Identity
from edgec.fleet.dashboard import parts
from edgec.fleet.dashboard.charts import line_chart, show_lines
from edgec.fleet.dashboard.parts import ago, badge, esc, link
from edgec.fleet.dashboard.shell import (
    attempt,
    confirm,
    dialog_card,
    frame,
    html,
    live,
    signed_in,
    to_sign_in,
)
from edgec.fleet.experiments.service import (
    NewExperiment,
    participant_counts,
    participants,
    view,
)
from edgec.fleet.problems import Problem
from edgec.fleet.services import Services
from edgec.fleet.store.experiment_tables import Experiment, Reading
from edgec.fleet.store.tables import Group, ModelVersion

MODES = {
    "shadow": "Shadow: the candidate looks on",
    "ab": "A/B: the candidate acts on its share of the frames",
}
WORDS = {
    "disagreement": ("Frames on which they differ", "{:.1%}"),
    "latency": ("Latency, candidate to own", "×{:.2f}"),
    "errors": ("Failed inferences, difference", "{:+.2%}"),
    "score": ("Mean score, difference", "{:+.3f}"),
    "results": ("Results a frame, candidate to own", "×{:.2f}"),
}
TONES = {"as-good": "better", "worse": "worse", "undecided": "undecided"}
BAR = {
    "RUNNING": "SUCCEEDED", "DONE": "SUCCEEDED", "FAILED": "FAILED", "INSTALL": "ACTIVE", "SLOT": "ACTIVE", "NEW": "ACTIVE",
}  # fmt: skip


def verdict_badge(data: dict[str, Any]) -> str:
    """The verdict as a coloured word, with its confidence."""
    sure = f", {parts.percent(data['confidence'], 2)} sure" if data["verdict"] != "undecided" else ""
    return badge(TONES[data["verdict"]], data["verdict"].replace("-", " ") + sure)


def load_list(services: Services) -> list[dict[str, Any]]:
    """The newest experiments."""
    with services.database.reading() as session:
        rows = list(session.scalars(select(Experiment).order_by(Experiment.id.desc()).limit(100)))
        counts = participant_counts(session, [row.id for row in rows])
        return [view(row, counts[row.id]) for row in rows]


def load_one(services: Services, number: int) -> dict[str, Any] | None:
    """An experiment with its devices and readings over time; None without such a one."""
    with services.database.reading() as session:
        row = session.get(Experiment, number) if 0 < number < 2**53 else None
        if row is None:
            return None
        readings = session.scalars(
            select(Reading).where(Reading.experiment_id == number).order_by(Reading.id.desc()).limit(600)
        )
        main, scale = ("disagreement", 100.0) if row.mode == "shadow" else ("score", 1.0)
        shown = view(row, participant_counts(session, [number])[number])
        return shown | {
            "main": main,
            "lines": [(main, one.at, scale * one.values[main]) for one in readings if main in one.values][
                ::-1
            ],
            "members": [member for _key, member in participants(session, number, 0, 100)],
            "tick": int(time.time() / 5),
        }


def add(services: Services) -> None:
    """Add ``/experiments`` and ``/experiments/{id}``."""

    @ui.page("/experiments")
    def experiments(request: Request) -> Response | None:
        identity = signed_in(services, request)
        if identity is None:
            return to_sign_in(request)
        with frame(request, identity, "Experiments", "a candidate beside what devices run") as actions:
            if identity.may("operator"):
                with actions:
                    _dialog(services, identity)
            body = html("", "e-card flush")
            live(lambda: load_list(services), lambda rows: body.set_content(_list(rows)), 2.0)
        return None

    @ui.page("/experiments/{number}")
    def experiment(request: Request, number: int) -> Response | None:
        identity = signed_in(services, request)
        if identity is None:
            return to_sign_in(request)
        first = load_one(services, number)
        title = first["name"] if first else f"Experiment {number}"
        with frame(request, identity, title, f'<a href="/experiments">Experiments</a> / {number}') as actions:
            if first is None:
                html(parts.empty("No such experiment", "It may have been on another server."), "e-card")
                return None
            _one(services, identity, number, first, actions)
        return None


def _one(
    services: Services, identity: Identity, number: int, first: dict[str, Any], actions: ui.element
) -> None:
    def end() -> None:
        services.stop_experiment(identity.name, number)

    button = None
    if identity.may("operator"):
        with actions:
            text = "Its devices run their own model alone again. What was measured stays."
            opens = confirm("Stop the experiment?", text, "Stop", lambda: attempt(end, "it is ending"))
            button = ui.button("Stop", icon="stop", on_click=opens).props("flat color=negative")
    head = html()
    findings = html("", "e-card flush")
    with ui.element("div").classes("e-row wide-left"):
        with ui.element("div").classes("e-card"):
            html(f"<h2>{WORDS[first['main']][0]}, each report</h2>")
            chart = line_chart("%" if first["main"] == "disagreement" else "")
        plan = html("", "e-card")
    members = html("", "e-card flush")

    def show(data: dict[str, Any] | None) -> None:
        if data is None:
            return
        if button:
            button.set_visibility(data["state"] == "RUNNING")
        head.set_content(_head(data))
        findings.set_content("<h2>What it shows</h2>" + _findings(data))
        show_lines(chart, data["lines"], named=False)
        plan.set_content("<h2>Plan</h2>" + _plan(data))
        members.set_content("<h2>Devices</h2>" + _members(data))

    live(lambda: load_one(services, number), show, 2.0, first=first)


def _list(rows: list[dict[str, Any]]) -> str:
    if not rows:
        text = "Let a new version look on, or act on a share of the frames, before it is rolled out."
        return parts.empty("No experiments yet", text, "edgec experiments start MODEL:VERSION --group GROUP")
    heads = ("#~No.", "Candidate", "~Kind", "~For", "~Devices", "#~Frames", "Verdict", "~State", "~Started")
    cells, links = [], []
    for row in rows:
        href = link("/experiments", row["id"])
        links.append(href)
        cells.append(
            [
                f'<span class="e-soft">{row["id"]}</span>', f'<a class="main" href="{href}">{esc(row["name"])}</a>',
                "A/B" if row["mode"] == "ab" else "shadow", esc(row["scope"]["name"] or "all devices"), _bar(row),
                parts.count(row["frames"]), badge(TONES[row["verdict"]], row["verdict"].replace("-", " ")), badge(row["state"]), ago(row["created_at"]),
            ]
        )  # fmt: skip
    return parts.table(heads, cells, links)


def _bar(data: dict[str, Any]) -> str:
    states: dict[str, int] = {}
    for state, number in data["devices"].items():
        states[BAR[state]] = states.get(BAR[state], 0) + number
    return parts.bar(states)


def _head(data: dict[str, Any]) -> str:
    devices = data["devices"]
    total = sum(devices.values())
    working = devices.get("RUNNING", 0) + devices.get("DONE", 0)
    until = max(data["deadline"] - time.time(), 0)
    edge = "" if data["finished_at"] else f"ends at the latest in {until / 3600:.1f} h"
    if data["finished_at"]:
        edge = f"ended {parts.passed(time.time() - data['finished_at'])}"
    return (
        f'<div style="margin:-8px 0 14px">{badge(data["state"])} {verdict_badge(data)} <span class="e-soft">{esc(data["reason"])}</span> '
        f'<span class="e-faint">{edge}</span></div>'
        + parts.tiles(
            [
                parts.tile(working, "devices compare", of=total),
                parts.tile(
                    devices.get("FAILED", 0), "could not", tone="bad" if devices.get("FAILED") else ""
                ),
                parts.tile(data["frames"], "frames of the candidate"),
                parts.tile(parts.percent(data["plan"]["share"]), "of the frames are its"),
            ]
        )
    )


def _findings(data: dict[str, Any]) -> str:
    if not any(one["readings"] for one in data["criteria"].values()):
        return parts.empty(
            "Nothing measured yet", "Devices fetch the candidate first, then report with their health."
        )
    rows = []
    for name, one in data["criteria"].items():
        words, form = WORDS[name]
        value = parts.number(None) if one["value"] is None else _figure(form, one["value"])
        ahead = max(one["against"], one["in_favour"])
        share = 100 * min(ahead / one["needed"], 1.0)
        tone = "bad" if one["against"] > one["in_favour"] else "good"
        meter = f'<div class="e-bar" title="evidence {ahead:g} of {one["needed"]:g}"><i class="{tone}" style="width:{share:.1f}%"></i></div>'
        rows.append(
            [words, value, _figure(form, one["tolerated"]), parts.count(one["readings"]), meter,
             badge(TONES[one["verdict"]], _word(name, one["verdict"]))]
        )  # fmt: skip
    return parts.table(("Criterion", "#Measured", "#~Tolerated", "#~Reports", "~Evidence", "Verdict"), rows)


def _figure(form: str, value: float) -> str:
    return form.format(value).replace("%", " %")


def _word(criterion: str, verdict: str) -> str:
    # Of two models that differ, either may be right.
    return "differs" if (criterion, verdict) == ("disagreement", "worse") else verdict.replace("-", " ")


def _plan(data: dict[str, Any]) -> str:
    facts = {
        "Candidate": f'<a class="main" href="{link("/models", data["model"])}">{esc(data["model"])}:{esc(data["version"])}</a>',
        "Beside": f"slot {esc(data['slot'])}",
        "Kind": esc(MODES[data["mode"]]),
        "For": esc(parts.scope_name(data["scope"])),
        "Wrong verdicts": f"at most {parts.percent(data['plan']['criteria']['alpha'])}",
        "Ends": "when decided" if data["plan"]["stop_when_decided"] else "when its time is up",
        "Started by": esc(data["created_by"]),
    }
    more = ""
    if data["verdict"] == "as-good":
        more = f'<a class="e-mini" style="display:inline-block;margin-top:12px" href="{link("/models", data["model"])}">Roll it out</a>'
    return parts.pairs(facts) + more


def _members(data: dict[str, Any]) -> str:
    words = {
        "NEW": "waits",
        "SLOT": "makes room",
        "INSTALL": "fetches it",
        "RUNNING": "compares",
        "DONE": "done",
    }
    tones = {"RUNNING": "RUNNING", "DONE": "accepted", "FAILED": "FAILED"}
    cells = [
        [f'<a class="main" href="{link("/devices", one["device"])}">{esc(one["device"])}</a>',
         badge(tones.get(one["state"], "PREPARING"), words.get(one["state"], "")), f'<span class="e-soft">{esc(one["detail"])}</span>',
         ago(one["changed_at"])]
        for one in data["members"]
    ]  # fmt: skip
    total = sum(data["devices"].values())
    more = (
        f'<div class="e-pager">the first {len(cells)} of {parts.count(total)}</div>'
        if total > len(cells)
        else ""
    )
    return parts.table(("Device", "State", "~Detail", "~Since"), cells) + more


def _dialog(services: Services, identity: Identity) -> None:
    with services.database.reading() as session:
        found = session.execute(
            select(ModelVersion.model, ModelVersion.version)
            .distinct()
            .order_by(ModelVersion.model, ModelVersion.version.desc())
        )
        versions = [f"{model}:{version}" for model, version in found]
        groups = list(session.scalars(select(Group.name).order_by(Group.name).limit(500)))
    with dialog_card("New experiment") as dialog:
        candidate = ui.select(versions, label="Candidate").props("outlined dense").classes("w-full")
        mode = ui.select(MODES, value="shadow", label="Kind").props("outlined dense").classes("w-full")
        scopes = {"all:": "All devices"} | {f"group:{name}": f"Group {name}" for name in groups}
        scope = ui.select(scopes, value="all:", label="For").props("outlined dense").classes("w-full")
        device = ui.input("or one device, by name").props("outlined dense").classes("w-full")
        share = (
            ui.number("Percent of the frames", value=20, min=1, max=100)
            .props("outlined dense")
            .classes("w-full")
        )
        hours = (
            ui.number("Hours, at most", value=24, min=0.1, max=2000).props("outlined dense").classes("w-full")
        )

        async def start() -> None:
            kind, _, name = (
                f"device:{device.value}".partition(":") if device.value else str(scope.value).partition(":")
            )
            model, _, version = str(candidate.value or "").partition(":")

            def create() -> int:
                body = NewExperiment.model_validate(
                    {"mode": mode.value, "model": model, "version": version, "scope": {"kind": kind, "name": name},
                     "plan": {"share": float(share.value or 20) / 100, "duration_s": 3600 * float(hours.value or 24)}}
                )  # fmt: skip
                return services.start_experiment(identity.name, body).id

            try:
                number = await run.io_bound(create)
            except (Problem, ValidationError) as error:
                text = error.detail if isinstance(error, Problem) else "Choose a candidate first."
                ui.notify(text, type="negative", multi_line=True)
                return
            ui.navigate.to(link("/experiments", number))

        with ui.row().classes("w-full justify-end"):
            ui.button("Cancel", on_click=dialog.close).props("flat color=quiet")
            ui.button("Start", icon="science", on_click=start).props("unelevated")
    ui.button("New experiment", icon="science", on_click=dialog.open).props("unelevated")
