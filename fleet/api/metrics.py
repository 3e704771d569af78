"""Metrics for Prometheus under `/metrics`."""

from __future__ import annotations

import time
from collections.abc import Mapping

from fastapi import APIRouter, Response
from sqlalchemy import func, select

from edgec.fleet.api.context import Server
from edgec.fleet.api.ops import EMBEDDED_LIMIT
from edgec.fleet.devices.queries import counts
from edgec.fleet.services import Services
from edgec.fleet.store.tables import Job, Rollout

router = APIRouter(tags=["operations"])


@router.get("/metrics", response_class=Response)
def metrics(server: Server) -> Response:
    """Numbers for Prometheus, text format 0.0.4. No names of devices: anyone on the network may read this."""
    return Response(render(server), media_type="text/plain; version=0.0.4")


def render(server: Services) -> str:
    """The metrics as text."""
    with server.database.reading() as session:
        devices = counts(session)
        rollouts = dict(session.execute(select(Rollout.state, func.count()).group_by(Rollout.state)).all())
        jobs = dict(session.execute(select(Job.state, func.count()).group_by(Job.state)).all())
    ingest = server.ingest.counters
    states = {key: devices[key] for key in ("online", "stopped", "offline", "never")}
    lines: list[str] = []

    def add(name: str, kind: str, help_text: str, values: Mapping[str, float], label: str = "") -> None:
        lines.append(f"# HELP edgec_{name} {help_text}\n# TYPE edgec_{name} {kind}")
        for key, value in values.items():
            lines.append(f'edgec_{name}{{{label}="{key}"}} {value}' if label else f"edgec_{name} {value}")

    add("devices", "gauge", "Devices by presence.", states, "state")
    add("devices_pending", "gauge", "Devices that wait to be accepted.", {"": devices["pending"]})
    add("devices_drift", "gauge", "Devices that run another version than desired.", {"": devices["drift"]})
    add("rollouts", "gauge", "Rollouts by state.", rollouts, "state")
    add("jobs", "gauge", "Jobs by state.", jobs, "state")
    add("ingest_messages_total", "counter", "Messages written, by kind.", dict(ingest.messages), "kind")
    add("ingest_rejected_total", "counter", "Messages left out, by reason.", dict(ingest.rejected), "reason")
    add("ingest_batches_total", "counter", "Transactions of the ingest.", {"": ingest.batches})
    add("ingest_seconds_total", "counter", "Time spent in them.", {"": round(ingest.seconds, 6)})
    add("ingest_queue", "gauge", "Messages that wait to be written.", {"": server.ingest.depth})
    add("broker_connected", "gauge", "Whether the broker is connected.", {"": int(server.link.connected)})
    if server.broker is not None:
        add("broker_sessions", "gauge", "Connections to the embedded broker.", {"": server.broker.sessions()})
        add("broker_sessions_limit", "gauge", "Connections it is meant for.", {"": EMBEDDED_LIMIT})
    add("uptime_seconds", "gauge", "Time since the start.", {"": round(time.time() - server.started_at, 3)})
    return "\n".join(lines) + "\n"
