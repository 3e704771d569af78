"""Retention of telemetry, of which hourly figures remain, and of detections."""

from __future__ import annotations

import threading

from sqlalchemy import delete, func, select

from edgec.fleet.store.bulk import insert_new
from edgec.fleet.store.database import Database
from edgec.fleet.store.tables import Detection, RollUp, Telemetry

PORTION = 20_000


def roll_up(database: Database, before: float) -> None:
    """Replace the telemetry of full hours before the Unix time `before` by one row an hour."""
    hour = int(before // 3600)
    with database.writing() as session:
        bucket = func.floor(Telemetry.at / 3600)
        rows = session.execute(
            select(
                Telemetry.device_id,
                Telemetry.stream,
                bucket.label("hour"),
                Telemetry.version,
                func.count(),
                func.avg(Telemetry.fps),
                func.avg(Telemetry.latency_ms),
                func.max(Telemetry.latency_ms),
            )
            .where(Telemetry.at < hour * 3600)
            .group_by(Telemetry.device_id, Telemetry.stream, bucket, Telemetry.version)
        )
        names = (
            "device_id",
            "stream",
            "hour",
            "version",
            "reports",
            "fps_mean",
            "latency_ms_mean",
            "latency_ms_max",
        )
        insert_new(
            session, RollUp, [dict(zip(names, row, strict=True)) | {"hour": int(row[2])} for row in rows]
        )
        session.execute(delete(Telemetry).where(Telemetry.at < hour * 3600))


def expire_detections(database: Database, before: float, stopped: threading.Event) -> None:
    """Delete detections from before the Unix time `before`, in portions, so that the ingest is not blocked."""
    while not stopped.is_set():
        with database.writing() as session:
            old = select(Detection.id).where(Detection.at < before).limit(PORTION)
            gone = session.execute(delete(Detection).where(Detection.id.in_(old)))
            if gone.rowcount < PORTION:  # type: ignore[attr-defined]
                return
