"""Health checks, and garbage collection on demand."""

from __future__ import annotations

import time
from typing import Any

from fastapi import APIRouter, Response
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError

from edgec.fleet.api.context import Server, SureAdmin
from edgec.fleet.audit.log import audit
from edgec.fleet.registry.blobs import StoreAway

router = APIRouter(tags=["operations"])


@router.get("/healthz")
def alive() -> dict[str, str]:
    """Check that the process answers."""
    return {"status": "ok"}


@router.get("/readyz")
def ready(server: Server, response: Response) -> dict[str, Any]:
    """Check database, broker, blob store and our own threads; 503 names what is not available."""
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
    broker = "ok" if server.mqtt_client.connected else "unreachable"
    dead = sorted(name for name, thread in server.workers.threads.items() if not thread.is_alive())
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


@router.post("/api/v1/registry/gc")
def collect_garbage(server: Server, who: SureAdmin, grace_s: float = 86400.0) -> dict[str, Any]:
    """Remove blobs that no manifest needs and that are older than `grace_s` seconds."""
    found = server.maintenance.collect_garbage(time.time(), max(grace_s, 0.0))
    with server.database.writing() as session:
        audit(session, who.name, "registry.gc", blobs=found.blobs, bytes=found.bytes)
    return {"blobs": found.blobs, "bytes": found.bytes, "uploads": found.uploads}
