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
from edgec.fleet.dashboard.device_parts import (
    detection_list,
    fact_list,
    job_table,
    log_lines,
    rival_card,
    shadow_list,
    stream_table,
    tiles,
    views,
)
from edgec.fleet.dashboard.shell import attempt, confirm, frame, html, live, signed_in, surely, to_sign_in
from edgec.fleet.dashboard.slots import slot_table
from edgec.fleet.devices.queries import summary
from edgec.fleet.devices.slots import slots_of
from edgec.fleet.jobs.service import job_view
from edgec.fleet.services import Services
from edgec.fleet.store.tables import Audit, Capture, Detection, Device, Job, Shadow, Telemetry
from edgec.fleet.telemetry.rows import SLOT_MARK

WINDOW_S = 3600.0


def load(services: Services, name: str) -> dict[str, Any] | None:
    """The data of the page; None if there is no such device."""
    now = time.time()
    with services.database.reading() as session:
        device = session.scalar(select(Device).filter_by(name=name))
        if device is None:
            return None
        telemetry = session.scalars(
            select(Telemetry)
            .where(
                Telemetry.device_id == device.id,
                Telemetry.stream != "",
                Telemetry.stream.not_like(f"{SLOT_MARK}%"),
                Telemetry.at > now - WINDOW_S,
            )
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
            "device": summary(device, slots_of(session, [device.id])[device.id]) | {"health": device.health},
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


def _pictures(session: Session, device_id: int) -> dict[str, dict[str, Any]]:
    """The newest capture of each stream: its picture, and what the model found in it."""
    newest = (
        select(func.max(Capture.id)).where(Capture.device_id == device_id, Capture.state != "discarded")
    ).group_by(Capture.stream)
    rows = session.scalars(select(Capture).where(Capture.id.in_(newest)))
    return {
        row.stream: {"id": row.id, "at": row.at, "state": row.state, "width": row.width, "height": row.height,
                     "predictions": row.predictions, "annotations": row.annotations}
        for row in sorted(rows, key=lambda row: -row.at)
    }  # fmt: skip


def _log(session: Session, name: str) -> list[tuple[float, str, str, str]]:
    """What was done to the device and by whom, newest first."""
    rows = session.scalars(select(Audit).where(Audit.subject == name).order_by(Audit.id.desc()).limit(30))
    return [(row.at, row.actor, row.action, json.dumps(row.detail) if row.detail else "") for row in rows]


def add(services: Services) -> None:
    """Add `/devices/{name}`."""

    @ui.page("/devices/{name}")
    def device_page(request: Request, name: str) -> Response | None:
        identity = signed_in(services, request)
        if identity is None:
            return to_sign_in(request)
        first = load(services, name)
        with frame(services, request, identity, name, '<a href="/devices">Devices</a>') as actions:
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
                top.set_content(rival_card(data["device"]) + tiles(data["device"]))
                view.set_content("<h2>Pictures</h2>" + views(data["detections"], data["pictures"]))
                log.set_content("<h2>Log</h2>" + log_lines(data))
                detections.set_content("<h2>Live detections</h2>" + detection_list(data["detections"][:9]))
                show_lines(fps, [(s, at, value) for s, at, value, _l, _v in data["telemetry"]])
                show_lines(latency, [(s, at, value) for s, at, _f, value, _v in data["telemetry"]])
                streams.set_content(
                    "<h2>Streams and models</h2>"
                    + stream_table(data["device"]["health"])
                    + slot_table(data["device"])
                )
                jobs.set_content("<h2>Jobs</h2>" + job_table(data["jobs"]))
                facts.set_content("<h2>Device</h2>" + fact_list(data["device"]))
                shadows.set_content("<h2>Shadows</h2>" + shadow_list(data["shadows"]))

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
        await surely(services, identity, lambda: attempt(lambda: admit("revoked"), f"{name} is revoked"))

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
    ui.button("Revoke", on_click=confirm(f"Revoke {name}?", text, "Revoke", revoke)).props(
        "flat color=negative"
    )
