"""Rollouts, their members and the jobs of devices."""

from __future__ import annotations

import time
from typing import Any

from sqlalchemy import (
    ForeignKey,
    Index,
    String,
    Text,
    UniqueConstraint,
)
from sqlalchemy.orm import Mapped, mapped_column

from edgec.fleet.store.tables.base import Base, Key


class Rollout(Base):
    """One version on its way to devices. `plan` is a `edgec.fleet.rollouts.plan.Plan`; with an empty `slot` each
    device's own slots for the model are updated."""

    __tablename__ = "rollouts"
    id: Mapped[int] = mapped_column(Key, primary_key=True)
    model: Mapped[str] = mapped_column(String(128), index=True)
    version: Mapped[str] = mapped_column(String(128))
    slot: Mapped[str] = mapped_column(String(64), default="")
    scope_kind: Mapped[str] = mapped_column(String(32))  # device|group|all
    scope: Mapped[str] = mapped_column(String(128))
    plan: Mapped[dict[str, Any]] = mapped_column(default=dict)
    state: Mapped[str] = mapped_column(String(32), index=True)
    stage: Mapped[int] = mapped_column(default=0)
    stage_since: Mapped[float] = mapped_column(default=0.0)
    reason: Mapped[str] = mapped_column(Text, default="")
    verdicts: Mapped[dict[str, Any]] = mapped_column(default=dict)
    created_by: Mapped[str] = mapped_column(String(128), default="")
    created_at: Mapped[float] = mapped_column(default=time.time)
    deadline: Mapped[float] = mapped_column()
    finished_at: Mapped[float | None] = mapped_column()
    lease_owner: Mapped[str] = mapped_column(String(64), default="")
    lease_until: Mapped[float] = mapped_column(default=0.0)


class Member(Base):
    """A slot of a device in a rollout: its stage and its state.

    `slot` is empty while the device has not reported its slots. `previous_*` is what the slot ran before, `prior_*`
    what the fleet wanted of it before.
    """

    __tablename__ = "members"
    __table_args__ = (UniqueConstraint("rollout_id", "device_id", "slot"),)
    id: Mapped[int] = mapped_column(Key, primary_key=True)
    rollout_id: Mapped[int] = mapped_column(ForeignKey("rollouts.id", ondelete="CASCADE"), index=True)
    device_id: Mapped[int] = mapped_column(ForeignKey("devices.id", ondelete="CASCADE"), index=True)
    rank: Mapped[int] = mapped_column(default=0)
    stage: Mapped[int] = mapped_column(default=0)
    state: Mapped[str] = mapped_column(String(32), default="WAITING", index=True)
    attempts: Mapped[int] = mapped_column(default=0)
    job_id: Mapped[str] = mapped_column(String(64), default="")
    slot: Mapped[str] = mapped_column(String(64), default="")
    previous_model: Mapped[str] = mapped_column(String(128), default="")
    previous_version: Mapped[str] = mapped_column(String(128), default="")
    previous_digest: Mapped[str] = mapped_column(String(80), default="")
    prior_model: Mapped[str] = mapped_column(String(128), default="")
    prior_version: Mapped[str] = mapped_column(String(128), default="")
    prior_digest: Mapped[str] = mapped_column(String(80), default="")
    has_place: Mapped[bool] = mapped_column(default=True)
    changed_at: Mapped[float] = mapped_column(default=time.time)
    detail: Mapped[str] = mapped_column(Text, default="")


class Job(Base):
    """One request to one device, and its execution."""

    __tablename__ = "jobs"
    __table_args__ = (Index("ix_jobs_device_state", "device_id", "state"),)
    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    device_id: Mapped[int] = mapped_column(ForeignKey("devices.id", ondelete="CASCADE"))
    rollout_id: Mapped[int | None] = mapped_column(ForeignKey("rollouts.id", ondelete="SET NULL"), index=True)
    purpose: Mapped[str] = mapped_column(String(32), default="update")  # update|rollback|command
    document: Mapped[dict[str, Any]] = mapped_column(default=dict)
    state: Mapped[str] = mapped_column(String(32), default="QUEUED", index=True)
    detail: Mapped[dict[str, Any]] = mapped_column(default=dict)
    update_seq: Mapped[int] = mapped_column(default=0)
    created_at: Mapped[float] = mapped_column(default=time.time)
    started_at: Mapped[float | None] = mapped_column()
    finished_at: Mapped[float | None] = mapped_column()
    expires_at: Mapped[float] = mapped_column(index=True)
