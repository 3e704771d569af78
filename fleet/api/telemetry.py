"""What devices report over time: telemetry and detections."""

from __future__ import annotations

import time
from typing import Any

from fastapi import APIRouter
from sqlalchemy import select

from edgec.fleet.api.context import (
    Cursor,
    Limit,
    Server,
    Viewer,
    next_cursor,
    number_cursor,
    page,
)
from edgec.fleet.api.devices import Text
from edgec.fleet.devices.service import get_device
from edgec.fleet.store.tables import Detection, Telemetry

router = APIRouter(prefix="/api/v1", tags=["telemetry"])


@router.get("/devices/{name}/detections")
def list_detections(
    server: Server, _who: Viewer, name: str, limit: Limit = 100, cursor: Cursor = "", stream: Text = "",
    label: Text = "", since: float | None = None, until: float | None = None,
) -> dict[str, Any]:  # fmt: skip
    """List detections of a device, newest first."""
    with server.database.reading() as session:
        device = get_device(session, name)
        query = select(Detection).where(Detection.device_id == device.id)
        if stream:
            query = query.where(Detection.stream == stream)
        if label:
            query = query.where(Detection.label == label)
        if since is not None:
            query = query.where(Detection.at >= since)
        if until is not None:
            query = query.where(Detection.at < until)
        if (before := number_cursor(cursor)) is not None:
            query = query.where(Detection.id < before)
        rows = list(session.scalars(query.order_by(Detection.id.desc()).limit(limit + 1)))
    items = [
        {"id": r.event_id, "stream": r.stream, "at": r.at, "phase": r.phase, "label": r.label,
         "score": r.score, "track_id": r.track_id, "version": r.version, "data": r.data}
        for r in rows[:limit]
    ]  # fmt: skip
    return page(items, next_cursor(rows, limit, lambda row: row.id))


@router.get("/devices/{name}/telemetry")
def list_telemetry(
    server: Server, _who: Viewer, name: str, stream: Text = "", since: float | None = None, limit: Limit = 500
) -> dict[str, Any]:
    """List the telemetry of a device, oldest first; an empty `stream` means the device as a whole."""
    with server.database.reading() as session:
        device = get_device(session, name)
        begin = time.time() - 3600 if since is None else since
        query = select(Telemetry).where(
            Telemetry.device_id == device.id, Telemetry.stream == stream, Telemetry.at >= begin
        )
        rows = list(session.scalars(query.order_by(Telemetry.at.desc()).limit(limit)))[::-1]
    fields = (
        "at",
        "version",
        "fps",
        "latency_ms",
        "dropped",
        "errors",
        "cpu_percent",
        "memory_bytes",
        "temperature_c",
    )
    return page([{field: getattr(row, field) for field in fields} for row in rows], None)
