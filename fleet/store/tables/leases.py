"""Leases: what one process of the fleet holds for a while, so that no other does the same."""

from __future__ import annotations

from sqlalchemy import String
from sqlalchemy.orm import Mapped, mapped_column

from edgec.fleet.store.tables.base import Base


class Lease(Base):
    """Something that one process holds at a time: `member:…` is the process itself, `session:…` a session at the
    broker; `detail` is the session's group of a shared subscription."""

    __tablename__ = "leases"
    name: Mapped[str] = mapped_column(String(255), primary_key=True)
    owner: Mapped[str] = mapped_column(String(64), default="")
    until: Mapped[float] = mapped_column(default=0.0)
    detail: Mapped[str] = mapped_column(String(128), default="")
