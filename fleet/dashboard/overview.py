"""The overview: the state of the fleet at a glance."""

from __future__ import annotations

import time
from typing import Any

from nicegui import ui
from sqlalchemy import func, select
from sqlalchemy.orm import Session
from starlette.requests import Request
from starlette.responses import Response

from edgec.fleet.broker.durable import LIMIT as EMBEDDED_LIMIT
from edgec.fleet.dashboard import parts
from edgec.fleet.dashboard.health_map import load_map, show_map
from edgec.fleet.dashboard.parts import ago, badge, count, esc, link
from edgec.fleet.dashboard.shell import frame, html, live, signed_in, to_sign_in
from edgec.fleet.devices.presence import duplicate
from edgec.fleet.devices.queries import counts
from edgec.fleet.devices.slots import slot_counts
from edgec.fleet.rollouts.service import ENDED, member_counts, view
from edgec.fleet.services import Services
from edgec.fleet.store.tables import Detection, Device, ModelVersion, Rollout

HOUR = 3600.0


def load(services: Services) -> dict[str, Any]:
    """The data of the page."""
    now = time.time()
    with services.database.reading() as session:
        spread = slot_counts(session)[:12]
        rollouts = list(session.scalars(select(Rollout).order_by(Rollout.id.desc()).limit(6)))
        members = member_counts(session, [rollout.id for rollout in rollouts])
        detections = session.execute(
            select(Detection, Device.name)
            .join(Device, Device.id == Detection.device_id)
            .order_by(Detection.id.desc())
            .limit(9)
        )
        states = counts(session)
        return {
            "counts": states,
            "map": load_map(session),
            "spread": spread,
            "rollouts": [view(rollout, members[rollout.id]) for rollout in rollouts],
            "active": session.scalar(select(func.count()).where(Rollout.state.not_in(ENDED))) or 0,
            "detections": [(d.at, name, d.stream, d.label, d.score, d.phase) for d, name in detections],
            "alerts": _alerts(services, session, states, now),
            "pushed": session.scalar(select(func.count(ModelVersion.id))) or 0,
            "tick": int(now / 5),
        }


Alert = tuple[str, str, str, float | None]
"""Tone, message, link, and since when."""


def _alerts(services: Services, session: Session, states: dict[str, int], now: float) -> list[Alert]:
    alerts: list[Alert] = []
    if not services.mqtt_client.connected:
        alerts.append(("bad", "The broker is not connected: nothing arrives from devices.", "", None))
    if services.broker is not None and services.broker.sessions() > 0.8 * EMBEDDED_LIMIT:
        text = f"The embedded broker has {services.broker.sessions()} of {EMBEDDED_LIMIT} connections: use an external one."
        alerts.append(("warn", text, "", None))
    failed = session.scalars(
        select(Rollout)
        .where(Rollout.state.in_(("FAILED", "ROLLED_BACK")), Rollout.finished_at > now - 24 * HOUR)
        .order_by(Rollout.id.desc())
        .limit(3)
    )
    for item in failed:
        alerts.append(("bad", f"Rollout of {item.model}:{item.version} {item.state.lower().replace('_', ' ')}: {item.reason}",
                       link("/rollouts", item.id), item.finished_at))  # fmt: skip
    held = session.scalars(
        select(Rollout)
        .where(Rollout.state.in_(("AWAITING_APPROVAL", "PAUSED")))
        .order_by(Rollout.id.desc())
        .limit(3)
    )
    for item in held:
        what = "is paused" if item.state == "PAUSED" else "waits for approval"
        text = f"Rollout of {item.model}:{item.version} {what}"
        alerts.append(("warn", text, link("/rollouts", item.id), item.stage_since))
    return sorted(alerts + _device_alerts(session, states), key=lambda alert: alert[0] != "bad")


def _device_alerts(session: Session, states: dict[str, int]) -> list[Alert]:
    """Devices in trouble: the newest by name, and the number of further ones."""
    alerts: list[Alert] = []
    shown = 3
    doubled = select(Device).where(Device.rival["role"].as_string() == "refused").order_by(Device.name)
    alerts += [
        ("bad", f"Two devices use the identity of {d.name}", link("/devices", d.name), d.rival["since"])
        for d in session.scalars(doubled.limit(shown))
        if duplicate(d, time.time())
    ]
    lost = session.scalars(
        select(Device).where(Device.state == "offline").order_by(Device.last_seen.desc()).limit(shown)
    )
    alerts += [("bad", f"{d.name} is offline", link("/devices", d.name), d.last_seen) for d in lost]
    if states["offline"] > shown:
        text = f"{count(states['offline'] - shown)} more devices are offline"
        alerts.append(("bad", text, "/devices?state=offline", None))
    idle = select(Device).where(Device.state == "online", Device.fps == 0)
    still = session.scalar(select(func.count()).select_from(idle.subquery())) or 0
    alerts += [
        ("warn", f"{d.name} is online but delivers no frames", link("/devices", d.name), None)
        for d in session.scalars(idle.order_by(Device.name).limit(shown))
    ]
    if still > shown:
        alerts.append(("warn", f"{count(still - shown)} more deliver no frames", "/devices?state=idle", None))
    return alerts


def add(services: Services) -> None:
    """Add `/`."""

    @ui.page("/")
    def overview(request: Request) -> Response | None:
        identity = signed_in(services, request)
        if identity is None:
            return to_sign_in(request)
        with frame(services, request, identity, "Overview", f"fleet {esc(services.settings.fleet)}"):
            top = html()
            with ui.element("div").classes("e-row wide-left") as state:
                health = html("", "e-card")
                spread = html("", "e-card")
            alerts = html("", "e-card flush")
            with ui.element("div").classes("e-row"):
                rollouts = html("", "e-card flush")
                detections = html("", "e-card flush")

            def show(data: dict[str, Any]) -> None:
                top.set_content(_tiles(data))
                health.set_content(show_map(data["map"]))
                state.set_visibility(bool(data["counts"]["total"]))
                alerts.set_content("<h2>Needs attention</h2>" + _alert_list(data))
                spread.set_content("<h2>Versions that run</h2>" + _spread(data["spread"]))
                rollouts.set_content("<h2>Rollouts</h2>" + _rollouts(data))
                detections.set_content("<h2>Latest detections</h2>" + _detections(data["detections"]))

            live(lambda: load(services), show)
        return None


def _tiles(data: dict[str, Any]) -> str:
    n = data["counts"]
    return parts.tiles(
        [
            parts.tile(
                n["online"],
                "online",
                of=n["total"],
                tone="good" if n["online"] else "",
                href="/devices?state=online",
            ),
            parts.tile(
                n["offline"], "offline", tone="bad" if n["offline"] else "", href="/devices?state=offline"
            ),
            parts.tile(
                n["drift"],
                "not on the desired version",
                tone="warn" if n["drift"] else "",
                href="/devices?state=drift",
            ),
            parts.tile(
                n["pending"],
                "wait to be accepted",
                tone="warn" if n["pending"] else "",
                href="/devices?state=pending",
            ),
            parts.tile(data["active"], "rollouts in progress", href="/rollouts"),
        ]
    )


def _alert_list(data: dict[str, Any]) -> str:
    if not data["counts"]["total"]:
        return parts.empty(
            "No devices yet",
            "Create an enrolment token, then start the agent with it.",
            "edgec fleet token create",
        )
    if not data["alerts"]:
        return parts.empty(
            "All is well", "No device is offline, no rollout waits for you or has failed in the last day."
        )
    rows = "".join(
        f'<a class="go" href="{esc(href or "/")}">{badge("failed" if tone == "bad" else "drift", "alert" if tone == "bad" else "note")}'
        f'<span class="grow wrap" title="{esc(text)}">{esc(text)}</span>'
        f'<span class="e-faint e-small">{ago(at) if at else ""}</span></a>'
        for tone, text, href, at in data["alerts"]
    )
    return f'<div class="e-list">{rows}</div>'


def _spread(spread: list[tuple[str, str, int]]) -> str:
    if not spread:
        return parts.empty("Nothing runs yet", "Push a model and deploy it.", "edgec push model.edge")
    total = sum(n for _m, _v, n in spread)
    rows = "".join(
        f'<a href="{link("/models", model)}" style="display:block;margin-bottom:12px"><div style="display:flex;gap:8px">'
        f'<span class="grow" style="flex:1">{esc(model)}<span class="e-soft">:{esc(version)}</span></span>'
        f'<span class="e-soft">{count(n)} · {parts.percent(n / total)}</span></div>'
        f'<div class="e-bar"><i class="accent" style="width:{100 * n / total:.1f}%"></i></div></a>'
        for model, version, n in spread
    )
    return rows


def _rollouts(data: dict[str, Any]) -> str:
    if not data["rollouts"]:
        command = "edgec deploy MODEL:VERSION --to DEVICE" if data["pushed"] else "edgec push model.edge"
        return parts.empty("No rollouts yet", "Send a version to a device or a group.", command)
    rows = "".join(
        f'<a href="{link("/rollouts", r["id"])}"><span class="grow"><b>{esc(r["model"])}:{esc(r["version"])}</b> '
        f'<span class="e-soft">to {esc(r["scope"]["name"] or "all devices")}</span></span>'
        f'<span class="e-aside" style="width:110px">{parts.bar(r["devices"])}</span>{badge(r["state"])}</a>'
        for r in data["rollouts"]
    )
    return f'<div class="e-list">{rows}</div>'


def _detections(items: list[tuple[float, str, str, str, float | None, str]]) -> str:
    if not items:
        return parts.empty("No detections yet", "They appear here as devices report them.")
    rows = "".join(
        f'<a href="{link("/devices", device)}"><b>{esc(label)}</b><span class="e-soft">{parts.number(score, "", 2)}</span>'
        f'<span class="grow e-soft">{esc(device)} / {esc(stream)}</span><span class="e-faint e-small">{ago(at)}</span></a>'
        for at, device, stream, label, score, _phase in items
    )
    return f'<div class="e-list">{rows}</div>'
