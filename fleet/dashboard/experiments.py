"""The list of experiments, the page of one, and the dialog that starts one."""

from __future__ import annotations

from typing import Any

from nicegui import run, ui
from pydantic import ValidationError
from sqlalchemy import select
from starlette.requests import Request
from starlette.responses import Response

from edgec.fleet.access.identity import Identity
from edgec.fleet.dashboard import parts
from edgec.fleet.dashboard.experiment import MODES, TONES, load_one, show_experiment, state_bar
from edgec.fleet.dashboard.parts import ago, badge, esc, link
from edgec.fleet.dashboard.shell import (
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
    view,
)
from edgec.fleet.experiments.verdict import Criteria
from edgec.fleet.problems import Problem
from edgec.fleet.services import Services
from edgec.fleet.store.tables import Experiment, Group, ModelVersion


def load_list(services: Services) -> list[dict[str, Any]]:
    """The newest experiments."""
    with services.database.reading() as session:
        rows = list(session.scalars(select(Experiment).order_by(Experiment.id.desc()).limit(100)))
        counts = participant_counts(session, [row.id for row in rows])
        return [view(row, counts[row.id]) for row in rows]


def add(services: Services) -> None:
    """Add `/experiments` and `/experiments/{id}`."""

    @ui.page("/experiments")
    def experiments(request: Request) -> Response | None:
        identity = signed_in(services, request)
        if identity is None:
            return to_sign_in(request)
        with frame(
            services, request, identity, "Experiments", "a candidate beside what devices run"
        ) as actions:
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
        with frame(
            services, request, identity, title, f'<a href="/experiments">Experiments</a> / {number}'
        ) as actions:
            if first is None:
                html(parts.empty("No such experiment", "It may have been on another server."), "e-card")
                return None
            show_experiment(services, identity, number, first, actions)
        return None


def _list(rows: list[dict[str, Any]]) -> str:
    if not rows:
        text = "Let a new version observe, or act on a share of the frames, before it is rolled out."
        return parts.empty("No experiments yet", text, "edgec experiments start MODEL:VERSION --group GROUP")
    heads = ("#~No.", "Candidate", "~Kind", "~For", "~Devices", "#~Frames", "Verdict", "~State", "~Started")
    cells, links = [], []
    for row in rows:
        href = link("/experiments", row["id"])
        links.append(href)
        cells.append(
            [
                f'<span class="e-soft">{row["id"]}</span>', f'<a class="main" href="{href}">{esc(row["name"])}</a>',
                "A/B" if row["mode"] == "ab" else "shadow", esc(row["scope"]["name"] or "all devices"), state_bar(row),
                parts.count(row["frames"]), badge(TONES[row["verdict"]], row["verdict"].replace("-", " ")), badge(row["state"]), ago(row["created_at"]),
            ]
        )  # fmt: skip
    return parts.table(heads, cells, links)


DIRECTED = {
    "": "Only says whether it differs", "higher": "Higher is better", "lower": "Lower is better",
}  # fmt: skip


def _invalid(error: ValidationError) -> str:
    first = error.errors()[0]
    if "criteria" in first["loc"]:
        return f"{str(first['loc'][-1]).replace('_', ' ')}: {first['msg']}"
    return "Choose a candidate first."


class Tolerances:
    """The inputs for what an experiment tolerates; an empty one leaves its criterion out."""

    def __init__(self) -> None:
        default = Criteria.model_validate({})
        self._inputs: dict[str, ui.number] = {}
        self._directed: dict[str, ui.select] = {}
        with ui.expansion("What is tolerated").classes("w-full"):
            ui.label("Makes the candidate worse").classes("e-small e-soft")
            self._number("latency_ratio", "Latency, as a factor", default.latency_ratio, 0.05)
            self._number("error_rate", "Failed inferences, increase of the share", default.error_rate, 0.005)
            ui.label("Says that it differs; name a direction if one is better").classes("e-small e-soft")
            self._number("disagreement", "Share of frames that differ (shadow)", default.disagreement, 0.01)
            self._number("score_shift", "Mean score, change", default.score_shift, 0.01)
            self._direction("score", "Mean score")
            self._number("results_ratio", "Results a frame, as a factor (A/B)", default.results_ratio, 0.1)
            self._direction("results", "Results a frame")
            self._number("alpha", "Probability of a wrong verdict", default.alpha, 0.01)

    def _number(self, name: str, label: str, value: float | None, step: float) -> None:
        field = ui.number(label, value=value, min=0, step=step).props("outlined dense").classes("w-full")
        self._inputs[name] = field

    def _direction(self, name: str, label: str) -> None:
        field = ui.select(DIRECTED, value="", label=label).props("outlined dense").classes("w-full")
        self._directed[name] = field

    def criteria(self) -> dict[str, Any]:
        """What the inputs say, as the service takes it."""
        found: dict[str, Any] = {
            name: None if field.value is None else float(field.value) for name, field in self._inputs.items()
        }
        tolerance = {"score": found["score_shift"], "results": found["results_ratio"]}
        found["metrics"] = [
            {"name": name, "better": str(field.value), "tolerance": tolerance[name]}
            for name, field in self._directed.items()
            if field.value
        ]
        if found["alpha"] is None:
            del found["alpha"]
        return found


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
        captures = ui.checkbox("Let devices send pictures on which the two differ, to review")
        tolerances = Tolerances()

        async def start() -> None:
            kind, _, name = (
                f"device:{device.value}".partition(":") if device.value else str(scope.value).partition(":")
            )
            model, _, version = str(candidate.value or "").partition(":")

            def create() -> int:
                body = NewExperiment.model_validate(
                    {"mode": mode.value, "model": model, "version": version, "scope": {"kind": kind, "name": name},
                     "plan": {"share": float(share.value or 20) / 100, "duration_s": 3600 * float(hours.value or 24),
                              "capture": bool(captures.value), "criteria": tolerances.criteria()}}
                )  # fmt: skip
                return services.start_experiment(identity.name, body).id

            try:
                number = await run.io_bound(create)
            except (Problem, ValidationError) as error:
                text = error.detail if isinstance(error, Problem) else _invalid(error)
                ui.notify(text, type="negative", multi_line=True)
                return
            ui.navigate.to(link("/experiments", number))

        with ui.row().classes("w-full justify-end"):
            ui.button("Cancel", on_click=dialog.close).props("flat color=quiet")
            ui.button("Start", icon="science", on_click=start).props("unelevated")
    ui.button("New experiment", icon="science", on_click=dialog.open).props("unelevated")
