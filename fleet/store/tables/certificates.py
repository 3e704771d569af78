"""Certificates that were issued, and their revocation."""

from __future__ import annotations

from sqlalchemy import (
    ForeignKey,
    String,
)
from sqlalchemy.orm import Mapped, mapped_column

from edgec.fleet.store.tables.base import Base


class Certificate(Base):
    """One certificate, by its serial number (hexadecimal). `uses_left` counts the devices that a claim still
    admits."""

    __tablename__ = "certificates"
    serial: Mapped[str] = mapped_column(String(40), primary_key=True)
    kind: Mapped[str] = mapped_column(String(16))  # device|claim|server
    device_id: Mapped[int | None] = mapped_column(ForeignKey("devices.id", ondelete="SET NULL"), index=True)
    name: Mapped[str] = mapped_column(String(128), default="")
    not_before: Mapped[float] = mapped_column()
    not_after: Mapped[float] = mapped_column(index=True)
    uses_left: Mapped[int] = mapped_column(default=0)
    auto_accept: Mapped[bool] = mapped_column(default=False)
    revoked_at: Mapped[float | None] = mapped_column(index=True)
