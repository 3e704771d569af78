"""Captures for retraining."""

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


class Capture(Base):
    """A picture that a device sent for retraining, its model's predictions, and a person's review."""

    __tablename__ = "captures"
    __table_args__ = (
        UniqueConstraint("device_id", "capture_id"),
        Index("ix_captures_state", "state", "id"),
        Index("ix_captures_stream", "device_id", "stream", "at"),
    )
    id: Mapped[int] = mapped_column(Key, primary_key=True)
    device_id: Mapped[int] = mapped_column(ForeignKey("devices.id", ondelete="CASCADE"))
    capture_id: Mapped[str] = mapped_column(String(64))
    stream: Mapped[str] = mapped_column(String(64))
    model: Mapped[str] = mapped_column(String(128), default="")
    version: Mapped[str] = mapped_column(String(128), default="")
    at: Mapped[float] = mapped_column()
    received_at: Mapped[float] = mapped_column(default=time.time)
    reason: Mapped[str] = mapped_column(String(32))
    digest: Mapped[str] = mapped_column(String(80), index=True)
    size: Mapped[int] = mapped_column(BigInteger)
    width: Mapped[int] = mapped_column()
    height: Mapped[int] = mapped_column()
    predictions: Mapped[list[Any]] = mapped_column(default=list)
    meta: Mapped[dict[str, Any]] = mapped_column(default=dict)
    state: Mapped[str] = mapped_column(String(32), default="new")  # new|confirmed|corrected|discarded
    annotations: Mapped[list[Any]] = mapped_column(default=list)
    reviewed_by: Mapped[str] = mapped_column(String(128), default="")
    reviewed_at: Mapped[float | None] = mapped_column()
