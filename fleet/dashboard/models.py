"""Models, their versions and the evidence for each artifact."""

from __future__ import annotations

import json
from typing import Any

from nicegui import ui
from rich.filesize import decimal as size
from sqlalchemy import func, select
from starlette.requests import Request
from starlette.responses import Response

from edgec.fleet.access.identity import Identity
from edgec.fleet.dashboard import parts, tags
from edgec.fleet.dashboard.deploy import deploy_dialog
from edgec.fleet.dashboard.parts import ago, esc, link
from edgec.fleet.dashboard.shell import frame, html, live, signed_in, to_sign_in
from edgec.fleet.devices.slots import devices_of_models
from edgec.fleet.registry.versions import all_tags, tag_history, tags_of
from edgec.fleet.rollouts.artifacts import artifact_view
from edgec.fleet.services import Services
from edgec.fleet.store.tables import DeviceSlot, ModelVersion


def load(services: Services) -> list[Any]:
    """Models with versions, targets and devices."""
    with services.database.reading() as session:
        running, tagged = devices_of_models(session), all_tags(session)
        found: dict[str, dict[str, Any]] = {}
        for row in session.scalars(select(ModelVersion).order_by(ModelVersion.pushed_at.desc())):
            model = found.setdefault(
                row.model,
                {
                    "name": row.model,
                    "latest": row.version,
                    "pushed": row.pushed_at,
                    "versions": set(),
                    "targets": set(),
                },
            )
            model["versions"].add(row.version)
            model["targets"].add(row.target)
        return [
            item | {"devices": running.get(item["name"], 0), "tags": tagged.get(item["name"], {})}
            for item in sorted(found.values(), key=lambda m: m["name"])
        ]


def load_model(services: Services, model: str) -> dict[str, Any]:
    """The artifacts of a model and how many devices run each of them."""
    with services.database.reading() as session:
        rows = session.scalars(
            select(ModelVersion).filter_by(model=model).order_by(ModelVersion.pushed_at.desc())
        )
        running = session.execute(
            select(DeviceSlot.digest, func.count(DeviceSlot.device_id.distinct()))
            .where(DeviceSlot.model == model)
            .group_by(DeviceSlot.digest)
        )
        return {
            "artifacts": [artifact_view(row) for row in rows], "running": dict(running.all()),
            "tags": tags_of(session, model), "history": tag_history(session, model, limit=20),
        }  # fmt: skip


def add(services: Services) -> None:
    """Add `/models`, `/models/{model}` and the evidence pages."""

    @ui.page("/models")
    def models(request: Request) -> Response | None:
        identity = signed_in(services, request)
        if identity is None:
            return to_sign_in(request)
        with frame(services, request, identity, "Models"):
            body = html("", "e-card flush")
            live(lambda: load(services), lambda rows: body.set_content(_models(rows)), 3.0)
        return None

    @ui.page("/models/{model}")
    def model_page(request: Request, model: str) -> Response | None:
        identity = signed_in(services, request)
        if identity is None:
            return to_sign_in(request)
        with frame(services, request, identity, model, '<a href="/models">Models</a>') as actions:
            data = load_model(services, model)
            if not data["artifacts"]:
                html(
                    parts.empty("No such model", f"Nothing was pushed as {model}.", "edgec push model.edge"),
                    "e-card",
                )
                return None
            if identity.may("operator"):
                with actions:
                    _deploy(services, identity, model, data)
            body = html("", "e-card flush")
            moves = html("", "e-card flush")

            def show(found: dict[str, Any]) -> None:
                body.set_content(_artifacts(found))
                moves.set_content("<h2>Tags</h2>" + tags.history(found["history"]))

            live(lambda: load_model(services, model), show, 3.0, first=data)
        return None

    @ui.page("/models/{model}/{version}/{target}")
    def evidence(request: Request, model: str, version: str, target: str) -> Response | None:
        identity = signed_in(services, request)
        if identity is None:
            return to_sign_in(request)
        title = f"{model}:{version} for {target}"
        with frame(
            services, request, identity, title, f'<a href="{link("/models", model)}">{esc(model)}</a>'
        ):
            found = [
                a
                for a in load_model(services, model)["artifacts"]
                if (a["version"], a["target"]) == (version, target)
            ]
            if not found:
                html(parts.empty("No such artifact", f"{title} is not in the registry."), "e-card")
                return None
            _facts(found[0])
            html(_evidence(found[0], link("/api/v1/models", model, version, target) + "/report"), "e-card")
        return None


def _facts(artifact: dict[str, Any]) -> None:
    facts = {
        "Digest": f'<span class="e-mono">{esc(artifact["digest"])}</span>',
        "Repository": f'<span class="e-mono">{esc(artifact["repository"])}</span>',
        "Size": size(artifact["size"]),
        "Pushed": ago(artifact["pushed_at"]),
    }
    html(parts.pairs(facts), "e-card")


def _evidence(artifact: dict[str, Any], report: str) -> str:
    """The report at the address `report`, or the figures alone."""
    if artifact["report"]:
        frame_html = f'<iframe class="e-frame" sandbox src="{esc(report)}" title="Evidence report"></iframe>'
        return "<h2>Evidence report</h2>" + frame_html
    if artifact["evidence"]:
        text = esc(json.dumps(artifact["evidence"], indent=2))
        return f'<h2>Evidence</h2><pre class="e-mono" style="white-space:pre-wrap">{text}</pre>'
    return parts.empty("No evidence", "This artifact was packed without verification against its source.")


def _deploy(services: Services, identity: Identity, model: str, data: dict[str, Any]) -> None:
    versions = list(dict.fromkeys(artifact["version"] for artifact in data["artifacts"]))
    tags.delete_dialog(services, identity, model, versions)
    tags.tag_dialog(services, identity, model, versions)
    deploy_dialog(services, identity, model, [*versions, *data["tags"]])


def _models(rows: list[Any]) -> str:
    if not rows:
        return parts.empty(
            "No models yet",
            "Compile one and push it.",
            "edgec compile model.onnx --target rpi5 && edgec push model-rpi5.edge",
        )
    heads = ("Model", "Latest", "~Tags", "#Versions", "~Targets", "#Devices", "~Pushed")
    cells = [
        [f'<a class="main" href="{link("/models", m["name"])}">{esc(m["name"])}</a>', esc(m["latest"]), tags.chips(m["tags"]), str(len(m["versions"])),
         "".join(f'<span class="e-chip">{esc(t)}</span>' for t in sorted(m["targets"])), parts.count(m["devices"]), ago(m["pushed"])]
        for m in rows
    ]  # fmt: skip
    return parts.table(heads, cells, [link("/models", m["name"]) for m in rows])


def _artifacts(data: dict[str, Any]) -> str:
    heads = (
        "Version",
        "Target",
        "#~Size",
        "#~Largest error",
        "#~Latency",
        "#~ONNX Runtime",
        "#Devices",
        "~Pushed",
        "Check",
    )
    cells, links = [], []
    for artifact in data["artifacts"]:
        evidence = artifact["evidence"]
        href = link("/models", artifact["model"], artifact["version"], artifact["target"])
        links.append(href)
        cells.append(
            [
                f'<a class="main" href="{href}">{esc(artifact["version"])}</a> {tags.chips(data["tags"], artifact["version"])}', f'<span class="e-chip">{esc(artifact["target"])}</span>',
                size(artifact["size"]), _shown(_error(evidence), "{:.1e}"), _shown(_value(evidence, "latency", "edgec", "median_ms"), "{:.2f} ms"),
                _shown(_value(evidence, "latency", "onnxruntime", "median_ms"), "{:.2f} ms"), parts.count(data["running"].get(artifact["digest"], 0)),
                ago(artifact["pushed_at"]), parts.badge("accepted", "verified") if evidence.get("verified") is True else parts.badge("drift", "not verified"),
            ]
        )  # fmt: skip
    return parts.table(heads, cells, links)


def _value(evidence: dict[str, Any], *path: str) -> float | None:
    """A number of the evidence; None if it was not measured or is not a number."""
    value: Any = evidence
    for key in path:
        value = value.get(key) if isinstance(value, dict) else None
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def _error(evidence: dict[str, Any]) -> float | None:
    """The largest absolute error of any output."""
    outputs = evidence.get("outputs")
    items = (
        list(outputs.values()) if isinstance(outputs, dict) else outputs if isinstance(outputs, list) else []
    )
    found = [
        value for item in items if isinstance(item, dict) and (value := _value(item, "max_abs")) is not None
    ]
    return max(found, default=None)


def _shown(value: float | None, form: str) -> str:
    return parts.number(None) if value is None else form.format(value)
