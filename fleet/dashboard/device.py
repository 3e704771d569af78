"""One device: live view, charts, streams, detections, jobs, shadows."""

from __future__ import annotations

import json
import time
from typing import Any

from nicegui import ui
from sqlalchemy import func, select
from sqlalchemy.orm import Session
from starlette.requests import Request
from starlette.responses import Response

from edgec.fleet.access.identity import Identity
from edgec.fleet.dashboard import parts
from edgec.fleet.dashboard.charts import line_chart, show_lines
from edgec.fleet.dashboard.parts import ago, badge, esc, link, number, size
from edgec.fleet.dashboard.shell import attempt, confirm, frame, html, live, signed_in, to_sign_in
from edgec.fleet.devices.queries import summary
from edgec.fleet.jobs.service import job_view
from edgec.fleet.services import Services
from edgec.fleet.store.experiment_tables import Capture
from edgec.fleet.store.tables import Audit, Detection, Device, Job, Shadow, Telemetry

WINDOW_S = 3600.0
COLOURS = ("#5aa9f7", "#3fcf96", "#e7b549", "#ff7b6b", "#b58cf5", "#4fd0d6", "#f28fc0", "#a3d65c")


def load(services: Services, name: str) -> dict[str, Any] | None:
    """What the page shows, or None without such a device."""
    now = time.time()
    with services.database.reading() as session:
        device = session.scalar(select(Device).filter_by(name=name))
        if device is None:
            return None
        telemetry = session.scalars(
            select(Telemetry)
            .where(Telemetry.device_id == device.id, Telemetry.stream != "", Telemetry.at > now - WINDOW_S)
            .order_by(Telemetry.at.desc())
            .limit(1200)
        )
        detections = session.scalars(
            select(Detection).where(Detection.device_id == device.id).order_by(Detection.id.desc()).limit(40)
        )
        jobs = session.scalars(
            select(Job).filter_by(device_id=device.id).order_by(Job.created_at.desc()).limit(10)
        )
        shadows = session.scalars(select(Shadow).filter_by(device_id=device.id).order_by(Shadow.name))
        return {
            "device": summary(device) | {"health": device.health, "digest": device.digest},
            "telemetry": [(s.stream, s.at, s.fps, s.latency_ms, s.version) for s in telemetry][::-1],
            "detections": [
                {"at": d.at, "stream": d.stream, "phase": d.phase, "label": d.label, "score": d.score,
                 "track": d.track_id, "data": d.data}
                for d in detections
            ],
            "jobs": [job_view(job) for job in jobs],
            "shadows": [(s.name, s.version, s.desired, s.reported, s.updated_at) for s in shadows],
            "pictures": _pictures(session, device.id),
            "log": _log(session, name),
            "tick": int(now / 5),
        }  # fmt: skip


def _pictures(session: Session, device_id: int) -> dict[str, tuple[int, float]]:
    """The newest picture of each stream: the number of its capture and when it was taken."""
    newest = (
        select(func.max(Capture.id)).where(Capture.device_id == device_id, Capture.state != "discarded")
    ).group_by(Capture.stream)
    rows = session.scalars(select(Capture).where(Capture.id.in_(newest)))
    return {row.stream: (row.id, row.at) for row in rows}


def _log(session: Session, name: str) -> list[tuple[float, str, str, str]]:
    """What was done to the device and by whom, newest first."""
    rows = session.scalars(select(Audit).where(Audit.subject == name).order_by(Audit.id.desc()).limit(30))
    return [(row.at, row.actor, row.action, json.dumps(row.detail) if row.detail else "") for row in rows]


def add(services: Services) -> None:
    """Add ``/devices/{name}``."""

    @ui.page("/devices/{name}")
    def device_page(request: Request, name: str) -> Response | None:
        identity = signed_in(services, request)
        if identity is None:
            return to_sign_in(request)
        first = load(services, name)
        with frame(request, identity, name, '<a href="/devices">Devices</a>') as actions:
            if first is None:
                html(
                    parts.empty("No such device", f"{name} is not enrolled here; it may have been deleted."),
                    "e-card",
                )
                return None
            if identity.may("operator"):
                with actions:
                    _actions(services, identity, name, first["device"]["admission"])
            top = html()
            with ui.element("div").classes("e-row"):
                view = html("", "e-card")
                detections = html("", "e-card flush")
            with ui.element("div").classes("e-row"):
                with ui.element("div").classes("e-card"):
                    html("<h2>Frame rate</h2>")
                    fps = line_chart("fps")
                with ui.element("div").classes("e-card"):
                    html("<h2>Median latency</h2>")
                    latency = line_chart("ms")
            streams = html("", "e-card flush")
            jobs = html("", "e-card flush")
            log = html("", "e-card flush")
            with ui.element("div").classes("e-row"):
                facts = html("", "e-card")
                shadows = html("", "e-card")

            def show(data: dict[str, Any] | None) -> None:
                if data is None:
                    top.set_content(parts.empty("This device was deleted", "Go back to the list of devices."))
                    return
                top.set_content(_tiles(data["device"]))
                view.set_content(
                    "<h2>Latest snapshot and detections</h2>" + _view(data["detections"], data["pictures"])
                )
                log.set_content("<h2>Log</h2>" + _lines(data))
                detections.set_content("<h2>Live detections</h2>" + _detections(data["detections"][:9]))
                show_lines(fps, [(s, at, value) for s, at, value, _l, _v in data["telemetry"]])
                show_lines(latency, [(s, at, value) for s, at, _f, value, _v in data["telemetry"]])
                streams.set_content("<h2>Streams and models</h2>" + _streams(data["device"]["health"]))
                jobs.set_content("<h2>Jobs</h2>" + _jobs(data["jobs"]))
                facts.set_content("<h2>Device</h2>" + _facts(data["device"]))
                shadows.set_content("<h2>Shadows</h2>" + _shadows(data["shadows"]))

            live(lambda: load(services, name), show, 1.0, first=first)
        return None


def _actions(services: Services, identity: Identity, name: str, admission: str) -> None:
    def admit(value: str) -> None:
        services.admit(identity.name, name, value)

    def command(operation: str) -> None:
        services.send_command(identity.name, name, {"operation": operation}, 300.0)

    async def accept() -> None:
        await attempt(lambda: admit("accepted"), f"{name} is accepted")

    async def revoke() -> None:
        await attempt(lambda: admit("revoked"), f"{name} is shut out")

    if admission != "accepted":
        ui.button("Accept", icon="check", on_click=accept).props("unelevated")
        return
    with ui.button("Command", icon="bolt").props("outline"), ui.menu():
        for operation, text in {"report-health": "Report health now", "snapshot": "Take a snapshot",
                                "restart": "Restart the agent"}.items():  # fmt: skip
            ui.menu_item(text, lambda op=operation: attempt(lambda: command(op), f"{op} is queued")).props(
                "role=menuitem"
            )
    text = "Its credentials stop working and its connection is closed. It can be accepted again."
    ui.button("Revoke", on_click=confirm(f"Shut {name} out?", text, "Revoke", revoke)).props(
        "flat color=negative"
    )


def _tiles(device: dict[str, Any]) -> str:
    health = device["health"]
    state = device["state"] if device["admission"] == "accepted" else device["admission"]
    running = f"{device['version']}" if device["version"] else "–"
    wanted = (
        f"{device['model']} → {device['desired_version']}"
        if device["drift"]
        else device["model"] or "no model yet"
    )
    dropped = sum(stream.get("dropped", 0) for stream in health.get("streams", []))
    return (
        f'<div style="margin:-8px 0 14px">{badge(state)} <span class="e-soft">last seen {ago(device["last_seen"])}</span></div>'
        + parts.tiles(
            [
                parts.tile(running, wanted, tone="warn" if device["drift"] else ""),
                parts.tile("–" if device["fps"] is None else f"{device['fps']:.1f}", "frames per second"),
                parts.tile(
                    "–" if device["latency_ms"] is None else f"{device['latency_ms']:.1f}",
                    "ms median latency",
                ),
                parts.tile(dropped, "frames dropped"),
                parts.tile(health.get("outbox", {}).get("depth", 0), "messages waiting to be sent"),
            ]
        )
    )


def _view(detections: list[dict[str, Any]], pictures: dict[str, tuple[int, float]]) -> str:
    boxed = [item for item in detections if item["data"].get("box")]
    if not boxed:
        if pictures:
            stream, (number, at) = max(pictures.items(), key=lambda item: item[1][1])
            return (
                f'<a href="{link("/captures", number)}"><img class="e-view" src="/api/v1/captures/{number}/image" alt="Snapshot of {esc(stream)}">'
                f'</a><div class="e-small e-faint" style="margin-top:6px">{esc(stream)} · {passed_since(at)}</div>'
            )
        return parts.empty("Nothing to draw yet", "Boxes appear here when a detector reports them.")
    frame_data = boxed[0]["data"]["frame"]
    width, height = frame_data.get("width") or 640, frame_data.get("height") or 480
    stream = boxed[0]["stream"]
    # What is in the frame now: the latest word on each track of this stream, unless it has ended.
    latest: dict[str, dict[str, Any]] = {}
    for item in boxed:
        if item["stream"] == stream:
            latest.setdefault(item["track"], item)
    shown = [item for item in latest.values() if item["phase"] != "end" and boxed[0]["at"] - item["at"] < 10][
        :12
    ]
    unit = max(width, height) / 640
    labels = sorted({item["label"] for item in boxed})
    shapes = []
    for item in shown or boxed[:1]:
        left, top, right, bottom = item["data"]["box"]
        colour = COLOURS[labels.index(item["label"]) % len(COLOURS)]
        text = f"{item['label']} {item['score']:.2f}"
        shapes.append(
            f'<rect x="{left:.1f}" y="{top:.1f}" width="{max(right - left, 1):.1f}" height="{max(bottom - top, 1):.1f}" '
            f'fill="{colour}22" stroke="{colour}" stroke-width="{2 * unit:.1f}" rx="{3 * unit:.1f}"/>'
            f'<text x="{left + 3 * unit:.1f}" y="{max(top - 6 * unit, 14 * unit):.1f}" fill="{colour}" '
            f'font-size="{15 * unit:.1f}" font-weight="600">{esc(text)}</text>'
        )
    caption = f"{esc(stream)} · {width}×{height} · boxes of {passed_since(boxed[0]['at'])}"
    backdrop = ""
    if stream in pictures:
        number, at = pictures[stream]
        # Boxes over a picture of another moment would mislead: an old one is only a hint of the place.
        fresh = 0.85 if abs(at - boxed[0]["at"]) < 1 else 0.3
        backdrop = f'<image href="/api/v1/captures/{number}/image" width="{width}" height="{height}" preserveAspectRatio="none" opacity="{fresh}"/>'
        caption += f' · <a href="{link("/captures", number)}">picture of {passed_since(at)}</a>'
    else:
        caption += " · no picture yet: Command, Take a snapshot"
    return (
        f'<svg class="e-view" viewBox="0 0 {width} {height}" role="img" aria-label="Boxes of the latest detections">'
        f'{backdrop}{"".join(shapes)}</svg><div class="e-small e-faint" style="margin-top:6px">{caption}</div>'
    )


def passed_since(at: float) -> str:
    """How long ago, as text."""
    return parts.passed(time.time() - at)


def _detections(items: list[dict[str, Any]]) -> str:
    if not items:
        return parts.empty("No detections yet", "They appear here as the device reports them.")
    rows = "".join(
        f'<div><b>{esc(item["label"])}</b><span class="e-soft">{number(item["score"], "", 2)}</span>'
        f'<span class="e-chip">{esc(item["phase"])}</span><span class="grow e-soft">{esc(item["stream"])} · {esc(item["track"])}</span>'
        f'<span class="e-faint e-small">{ago(item["at"])}</span></div>'
        for item in items
    )
    return f'<div class="e-list">{rows}</div>'


def _streams(health: dict[str, Any]) -> str:
    if not health.get("streams"):
        return parts.empty("No health report yet", "The agent reports its streams when it connects.")
    rows = []
    for stream in health["streams"]:
        total = stream.get("latency", {}).get("total", {})
        rows.append(
            [
                f"<b>{esc(stream['name'])}</b>", badge(stream["state"]), esc(stream.get("model", "")), number(stream.get("fps")),
                number(total.get("p50_ms")), number(total.get("p99_ms")), parts.count(stream.get("dropped", 0)),
                str(stream.get("restarts", 0)), f'<span class="e-soft">{esc(stream.get("message", ""))}</span>',
            ]
        )  # fmt: skip
    heads = (
        "Stream",
        "State",
        "~Model",
        "#fps",
        "#p50 ms",
        "#~p99 ms",
        "#~Dropped",
        "#~Restarts",
        "~Message",
    )
    models = [
        [
            f"<b>{esc(m['slot'])}</b>", badge(m["state"]), f"{esc(m['name'])}:{esc(m.get('version', ''))}" if m.get("name") else "–",
            parts.count(m.get("inferences", 0)), parts.count(m.get("errors", 0)),
            f'<span class="e-mono e-soft">{esc((m.get("manifest_digest") or "")[7:19])}</span>',
        ]
        for m in health.get("models", [])
    ]  # fmt: skip
    second = (
        parts.table(("Slot", "State", "Model", "#~Inferences", "#Errors", "~Digest"), models)
        if models
        else ""
    )
    return parts.table(heads, rows) + second


def _jobs(jobs: list[dict[str, Any]]) -> str:
    if not jobs:
        return parts.empty("No jobs", "Rollouts and commands for this device are listed here.")
    rows = []
    for job in jobs:
        document, details = job["document"], job["details"]
        what = (
            f"{document.get('model')}:{document.get('version')}"
            if document.get("operation") == "update"
            else document.get("operation")
        )
        origin = (
            f'<a href="{link("/rollouts", job["rollout"])}" class="main">rollout {job["rollout"]}</a>'
            if job["rollout"]
            else "–"
        )
        at = job["queued_at"]
        rows.append(
            [badge(job["state"]), f"{esc(job['purpose'])} <b>{esc(what)}</b>", origin, esc(details.get("step", "").lower().replace("_", " ")),
             f'<span class="e-soft">{esc(details.get("message", ""))}</span>', f'<span class="e-soft e-time">{esc(at[:19].replace("T", " "))}</span>']
        )  # fmt: skip
    return parts.table(("State", "What", "~From", "~Step", "Message", "~Queued (UTC)"), rows)


def _lines(data: dict[str, Any]) -> str:
    health = data["device"]["health"]
    said = [*health.get("degraded", [])]
    said += [f"{one['name']}: {one['message']}" for one in health.get("streams", []) if one.get("message")]
    said += [f"{one['slot']}: {one['message']}" for one in health.get("models", []) if one.get("message")]
    now = "".join(
        f'<div>{badge("drift", "now")}<span class="grow wrap" title="{esc(text)}">{esc(text)}</span></div>'
        for text in said
    )
    rows = "".join(
        f'<div><span class="e-mono">{esc(action)}</span><span class="grow wrap e-soft" title="{esc(detail)}">{esc(actor)} {esc(detail)}</span>'
        f'<span class="e-faint e-small">{ago(at)}</span></div>'
        for at, actor, action, detail in data["log"]
    )
    if not (now or rows):
        return parts.empty(
            "Nothing happened yet", "What is done to the device, and what it complains of, is listed here."
        )
    return f'<div class="e-list e-log" tabindex="0">{now}{rows}</div>'


def _facts(device: dict[str, Any]) -> str:
    health = device["health"]
    facts = {
        "Target": esc(device["target"] or "–"),
        "Agent": esc(device["agent_version"] or "–"),
        "Enrolled": ago(device["enrolled_at"]),
        "Processor": "–" if health.get("cpu_percent") is None else f"{health['cpu_percent']:.0f} % of a core",
        "Memory": "–" if health.get("memory_bytes") is None else size(health["memory_bytes"]),
        "Temperature": "–" if health.get("temperature_c") is None else f"{health['temperature_c']:.0f} °C",
        "Disk free": "–" if health.get("disk_free_bytes") is None else size(health["disk_free_bytes"]),
        "Artifact": f'<span class="e-mono">{esc(device["digest"] or "–")}</span>',
        "Labels": parts.chips(device["labels"]) or "–",
    }
    if health.get("degraded"):
        facts["Degraded"] = "; ".join(esc(item) for item in health["degraded"])
    return parts.pairs(facts)


def _shadows(rows: list[Any]) -> str:
    if not rows:
        return parts.empty("No shadows", "What is desired and what the device reports appear here.")
    return "".join(
        f"<div style='margin-bottom:12px'><b>{esc(name)}</b> <span class='e-soft'>version {version}, {ago(at)}</span>"
        f"<div class='e-soft e-small'>desired</div><div class='e-mono'>{esc(json.dumps(desired))}</div>"
        f"<div class='e-soft e-small'>reported</div><div class='e-mono'>{esc(json.dumps(reported))}</div></div>"
        for name, version, desired, reported, at in rows
    )
