"""Health checks, metrics and upkeep."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from fastapi import APIRouter, Response
from sqlalchemy import func, select, text
from sqlalchemy.exc import SQLAlchemyError

from edgec.fleet.access.auth import audit
from edgec.fleet.api.context import Admin, Server
from edgec.fleet.broker.embedded import LIMIT
from edgec.fleet.devices.service import counts
from edgec.fleet.registry.blobs import StoreAway
from edgec.fleet.server import Services
from edgec.fleet.store.tables import Job, Rollout

router = APIRouter(tags=["operations"])
EMBEDDED_LIMIT = LIMIT


@router.get("/healthz")
def alive() -> dict[str, str]:
    """The process answers."""
    return {"status": "ok"}


@router.get("/readyz")
def ready(server: Server, response: Response) -> dict[str, Any]:
    """Database, broker, the store of blobs and our own threads are well too; 503 names what is not."""
    try:
        with server.database.reading() as session:
            session.execute(text("SELECT 1"))
        database = "ok"
    except SQLAlchemyError:
        database = "unreachable"
    try:
        server.blobs.check()
        blobs = "ok"
    except StoreAway:
        blobs = "unreachable"
    broker = "ok" if server.link.connected else "unreachable"
    dead = sorted(name for name, thread in server.threads.items() if not thread.is_alive())
    good = database == broker == blobs == "ok" and not dead
    if not good:
        response.status_code = 503
    return {
        "status": "ok" if good else "unavailable",
        "database": database,
        "broker": broker,
        "blobs": blobs,
        "stopped": dead,
    }


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


@router.post("/api/v1/registry/gc")
def collect_garbage(server: Server, who: Admin, grace_s: float = 86400.0) -> dict[str, Any]:
    """Remove blobs that no manifest needs and that are older than ``grace_s`` seconds."""
    found = server.upkeep.collect_garbage(time.time(), max(grace_s, 0.0))
    with server.database.writing() as session:
        audit(session, who.name, "registry.gc", blobs=found.blobs, bytes=found.bytes)
    return {"blobs": found.blobs, "bytes": found.bytes, "uploads": found.uploads}
