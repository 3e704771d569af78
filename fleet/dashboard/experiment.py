"""One experiment: what each criterion shows, and how its devices fare."""

from __future__ import annotations

import time
from typing import Any

from nicegui import ui
from sqlalchemy import select

from edgec.fleet.access.identity import Identity
from edgec.fleet.dashboard import parts
from edgec.fleet.dashboard.charts import line_chart, show_lines
from edgec.fleet.dashboard.parts import ago, badge, esc, link
from edgec.fleet.dashboard.shell import (
    attempt,
    confirm,
    html,
    live,
)
from edgec.fleet.experiments.service import (
    participant_counts,
    participants,
    view_now,
)
from edgec.fleet.services import Services
from edgec.fleet.store.tables import Experiment, Reading

MODES = {
    "shadow": "Shadow: the candidate only observes",
    "ab": "A/B: the candidate acts on its share of the frames",
}


WORDS = {
    "disagreement": ("Frames on which they differ", "{:.1%}"),
    "latency": ("Latency, candidate to own", "×{:.2f}"),
    "errors": ("Failed inferences, difference", "{:+.2%}"),
    "score": ("Mean score, difference", "{:+.3f}"),
    "results": ("Results a frame, candidate to own", "×{:.2f}"),
}


TONES = {
    "as-good": "better", "better": "better", "alike": "better", "differs": "drift", "worse": "worse",
    "undecided": "undecided",
}  # fmt: skip


BAR = {
    "RUNNING": "SUCCEEDED", "DONE": "SUCCEEDED", "FAILED": "FAILED", "INSTALL": "ACTIVE", "SLOT": "ACTIVE", "NEW": "ACTIVE",
}  # fmt: skip


def verdict_badge(data: dict[str, Any]) -> str:
    """The verdict as a coloured word, with its confidence."""
    sure = f", {parts.percent(data['confidence'], 2)} sure" if data["verdict"] != "undecided" else ""
    return badge(TONES[data["verdict"]], data["verdict"].replace("-", " ") + sure)


def load_one(services: Services, number: int) -> dict[str, Any] | None:
    """An experiment with its devices and readings over time; None if there is no such experiment."""
    with services.database.reading() as session:
        row = session.get(Experiment, number) if 0 < number < 2**53 else None
        if row is None:
            return None
        readings = session.scalars(
            select(Reading).where(Reading.experiment_id == number).order_by(Reading.id.desc()).limit(600)
        )
        main, scale = ("disagreement", 100.0) if row.mode == "shadow" else ("score", 1.0)
        shown = view_now(session, row, participant_counts(session, [number])[number])
        return shown | {
            "main": main,
            "lines": [(main, one.at, scale * one.values[main]) for one in readings if main in one.values][
                ::-1
            ],
            "members": [member for _key, member in participants(session, number, 0, 100)],
            "tick": int(time.time() / 5),
        }


def show_experiment(
    services: Services, identity: Identity, number: int, first: dict[str, Any], actions: ui.element
) -> None:
    """Fill the page of an experiment and keep it up to date."""

    def end() -> None:
        services.stop_experiment(identity.name, number)

    button = None
    if identity.may("operator"):
        with actions:
            text = "Its devices return to their own model. The measurements are kept."
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


def state_bar(data: dict[str, Any]) -> str:
    """How many devices are in each state, as a bar."""
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
        if one.get("better"):
            words += f", {one['better']} is better"
        value = parts.number(None) if one["value"] is None else _figure(form, one["value"])
        ahead = max(one["against"], one["in_favour"])
        share = 100 * min(ahead / one["needed"], 1.0)
        beyond = "bad" if one.get("judges", True) else "warn"
        tone = beyond if one["against"] > one["in_favour"] else "good"
        meter = f'<div class="e-bar" title="evidence {ahead:g} of {one["needed"]:g}"><i class="{tone}" style="width:{share:.1f}%"></i></div>'
        rows.append(
            [words, value, _figure(form, one["tolerated"]), parts.count(one["readings"]), meter,
             badge(TONES[one["verdict"]], one["verdict"].replace("-", " "))]
        )  # fmt: skip
    heads = ("Criterion", "#Measured", "#~Tolerated", "#~Reports", "~Evidence", "Verdict")
    return parts.table(heads, rows) + _labels(data)


def _labels(data: dict[str, Any]) -> str:
    """What the reviewed captures say about which model is right."""
    labels = data["labels"]
    if not labels or not labels["pictures"]:
        text = "Scores cannot tell which of two models is right. Reviewed captures can"
        how = "" if data["plan"].get("capture") else ": start the experiment with captures of disagreements"
        return f'<div class="e-soft" style="padding:10px 16px">{text}{how}.</div>'
    shares = [
        f"{name} {parts.percent(labels[key])}"
        for name, key in (("own model", "own"), ("candidate", "candidate")) if labels[key] is not None
    ]  # fmt: skip
    counted = (
        f"{parts.count(labels['pictures'])} reviewed pictures: they agree with the {' and the '.join(shares)}"
    )
    if data["mode"] == "shadow":
        counted += f"; the candidate alone is right on {labels['candidate_right']}, the own model on {labels['own_right']}"
    tone = {"candidate": "better", "own": "worse", "": "undecided"}[labels["right"]]
    word = {"candidate": "the candidate is right", "own": "the own model is right", "": "not decided yet"}
    sure = f", {parts.percent(labels['confidence'], 2)} sure" if labels["right"] else ""
    return (
        f'<div style="padding:10px 16px">{badge(tone, word[labels["right"]] + sure)} '
        f'<span class="e-soft">{counted}.</span></div>'
    )


def _figure(form: str, value: float) -> str:
    return form.format(value).replace("%", " %")


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
    if data["verdict"] in ("as-good", "better"):
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
