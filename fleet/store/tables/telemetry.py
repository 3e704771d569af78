"""What devices report over time: detections, telemetry and its hourly roll-ups."""

from __future__ import annotations

import time
from typing import Any

from sqlalchemy import (
    BigInteger,
    ForeignKey,
    Index,
    String,
    UniqueConstraint,
)
from sqlalchemy.orm import Mapped, mapped_column

from edgec.fleet.store.tables.base import Base, Key


class Detection(Base):
    """One event of a stream. `event_id` is the CloudEvents id, unique per device: a repeat is not a
    second event."""

    __tablename__ = "detections"
    __table_args__ = (
        UniqueConstraint("device_id", "event_id"),
        Index("ix_detections_device_at", "device_id", "at"),
        Index("ix_detections_label_at", "label", "at"),
    )
    id: Mapped[int] = mapped_column(Key, primary_key=True)
    device_id: Mapped[int] = mapped_column(ForeignKey("devices.id", ondelete="CASCADE"))
    event_id: Mapped[str] = mapped_column(String(128))
    stream: Mapped[str] = mapped_column(String(64))
    at: Mapped[float] = mapped_column(index=True)
    received_at: Mapped[float] = mapped_column(default=time.time)
    phase: Mapped[str] = mapped_column(String(32))  # new|update|end
    label: Mapped[str] = mapped_column(String(128), default="")
    score: Mapped[float | None] = mapped_column()
    track_id: Mapped[str] = mapped_column(String(64), default="")
    version: Mapped[str] = mapped_column(String(128), default="")
    data: Mapped[dict[str, Any]] = mapped_column(default=dict)


class Telemetry(Base):
    """The figures of one health message for one stream of a device; `stream` is empty for the device as a whole."""

    __tablename__ = "telemetry"
    __table_args__ = (UniqueConstraint("device_id", "stream", "at"),)
    id: Mapped[int] = mapped_column(Key, primary_key=True)
    device_id: Mapped[int] = mapped_column(ForeignKey("devices.id", ondelete="CASCADE"))
    stream: Mapped[str] = mapped_column(String(64), default="")
    at: Mapped[float] = mapped_column(index=True)
    version: Mapped[str] = mapped_column(String(128), default="")
    fps: Mapped[float | None] = mapped_column()
    latency_ms: Mapped[float | None] = mapped_column()
    dropped: Mapped[int | None] = mapped_column(BigInteger)
    processed: Mapped[int | None] = mapped_column(BigInteger)
    errors: Mapped[int | None] = mapped_column(BigInteger)
    events: Mapped[int | None] = mapped_column(BigInteger)
    score_mean: Mapped[float | None] = mapped_column()
    cpu_percent: Mapped[float | None] = mapped_column()
    memory_bytes: Mapped[int | None] = mapped_column(BigInteger)
    temperature_c: Mapped[float | None] = mapped_column()


class RollUp(Base):
    """Telemetry of one stream summed up over one hour, once the rows themselves are gone; `reports` counts them."""

    __tablename__ = "roll_ups"
    device_id: Mapped[int] = mapped_column(ForeignKey("devices.id", ondelete="CASCADE"), primary_key=True)
    stream: Mapped[str] = mapped_column(String(64), primary_key=True)
    hour: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    version: Mapped[str] = mapped_column(String(128), primary_key=True)
    reports: Mapped[int] = mapped_column()
    fps_mean: Mapped[float | None] = mapped_column()
    latency_ms_mean: Mapped[float | None] = mapped_column()
    latency_ms_max: Mapped[float | None] = mapped_column()
