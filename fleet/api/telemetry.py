"""What devices report over time: telemetry and detections."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

from fastapi import APIRouter
from fastapi.responses import StreamingResponse
from sqlalchemy import Select, select

from edgec.fleet.api.context import (
    Cursor,
    Limit,
    Operator,
    Server,
    Viewer,
    next_cursor,
    number_cursor,
    page,
)
from edgec.fleet.api.devices import Text
from edgec.fleet.audit.log import audit
from edgec.fleet.captures.csv_rows import csv_lines, iso
from edgec.fleet.devices.service import get_device
from edgec.fleet.services import Services
from edgec.fleet.store.tables import Detection, Device, Telemetry

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


DETECTIONS = (
    "device", "stream", "at", "phase", "kind", "label", "score", "track", "model", "version", "left", "top", "right",
    "bottom", "zones", "rule", "value", "duration_s",
)  # fmt: skip
BATCH = 1000


@router.get("/detections/export", response_class=StreamingResponse)
def export_detections(
    server: Server, who: Operator, device: Text = "", stream: Text = "", label: Text = "", since: float | None = None,
    until: float | None = None,
) -> StreamingResponse:  # fmt: skip
    """Export detections as CSV, oldest first."""
    query = select(Detection, Device.name).join(Device, Device.id == Detection.device_id)
    wanted = {Device.name: device, Detection.stream: stream, Detection.label: label}
    for column, value in wanted.items():
        if value:
            query = query.where(column == value)
    if since is not None:
        query = query.where(Detection.at >= since)
    if until is not None:
        query = query.where(Detection.at < until)
    with server.database.writing() as session:
        audit(session, who.name, "detection.export", device)
    headers = {"Content-Disposition": 'attachment; filename="detections.csv"'}
    return StreamingResponse(
        csv_lines(DETECTIONS, _detections(server, query)), headers=headers, media_type="text/csv"
    )


def _detections(server: Services, query: Select[Detection, str]) -> Iterator[tuple[object, ...]]:
    """The rows of the table, read in batches so that neither memory nor a snapshot is held for long."""
    last = 0
    while True:
        with server.database.reading() as session:
            rows = session.execute(query.where(Detection.id > last).order_by(Detection.id).limit(BATCH)).all()
        if not rows:
            return
        last = rows[-1][0].id
        for row, name in rows:
            data = row.data if isinstance(row.data, dict) else json.loads(row.data)
            yield (
                name, row.stream, iso(row.at), row.phase, data.get("kind", ""), row.label, row.score, row.track_id,
                (data.get("model") or {}).get("name", ""), row.version, *(data.get("box") or ("", "", "", "")),
                " ".join(data.get("zones") or []), data.get("rule", ""), data.get("value"), data.get("duration_s"),
            )  # fmt: skip


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
