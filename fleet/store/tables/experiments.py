"""Experiments, their participants and what these report."""

from __future__ import annotations

import time
from typing import Any

from sqlalchemy import (
    BigInteger,
    ForeignKey,
    Index,
    String,
    Text,
    UniqueConstraint,
)
from sqlalchemy.orm import Mapped, mapped_column

from edgec.fleet.store.tables.base import Base, Key


class Experiment(Base):
    """A candidate version beside the one that devices run: only observing (shadow) or acting on a share of the
    frames (A/B)."""

    __tablename__ = "experiments"
    id: Mapped[int] = mapped_column(Key, primary_key=True)
    name: Mapped[str] = mapped_column(String(128))
    mode: Mapped[str] = mapped_column(String(32))  # shadow|ab
    model: Mapped[str] = mapped_column(String(128))
    version: Mapped[str] = mapped_column(String(128))
    slot: Mapped[str] = mapped_column(String(64))
    scope_kind: Mapped[str] = mapped_column(String(32))  # device|group|all
    scope: Mapped[str] = mapped_column(String(128))
    plan: Mapped[dict[str, Any]] = mapped_column(default=dict)
    state: Mapped[str] = mapped_column(String(32), index=True)
    verdict: Mapped[str] = mapped_column(String(32), default="undecided")
    findings: Mapped[dict[str, Any]] = mapped_column(default=dict)
    reason: Mapped[str] = mapped_column(Text, default="")
    created_by: Mapped[str] = mapped_column(String(128), default="")
    created_at: Mapped[float] = mapped_column(default=time.time)
    deadline: Mapped[float] = mapped_column()
    finished_at: Mapped[float | None] = mapped_column()
    lease_owner: Mapped[str] = mapped_column(String(64), default="")
    lease_until: Mapped[float] = mapped_column(default=0.0)


class Participant(Base):
    """A device in an experiment. `counters` are those of its last health message, from which the next differences
    are taken."""

    __tablename__ = "participants"
    __table_args__ = (UniqueConstraint("experiment_id", "device_id"),)
    id: Mapped[int] = mapped_column(Key, primary_key=True)
    experiment_id: Mapped[int] = mapped_column(ForeignKey("experiments.id", ondelete="CASCADE"), index=True)
    device_id: Mapped[int] = mapped_column(ForeignKey("devices.id", ondelete="CASCADE"), index=True)
    state: Mapped[str] = mapped_column(String(32), default="NEW")  # NEW|SLOT|INSTALL|RUNNING|FAILED|DONE
    job_id: Mapped[str] = mapped_column(String(64), default="")
    detail: Mapped[str] = mapped_column(Text, default="")
    changed_at: Mapped[float] = mapped_column(default=time.time)
    counters: Mapped[dict[str, Any]] = mapped_column(default=dict)


class Reading(Base):
    """The figures of one health message of a participant: the candidate's relative to the base model's."""

    __tablename__ = "readings"
    __table_args__ = (Index("ix_readings_experiment_at", "experiment_id", "at"),)
    id: Mapped[int] = mapped_column(Key, primary_key=True)
    experiment_id: Mapped[int] = mapped_column(ForeignKey("experiments.id", ondelete="CASCADE"))
    device_id: Mapped[int] = mapped_column(ForeignKey("devices.id", ondelete="CASCADE"))
    at: Mapped[float] = mapped_column()
    frames: Mapped[int] = mapped_column(BigInteger, default=0)
    values: Mapped[dict[str, Any]] = mapped_column(default=dict)
