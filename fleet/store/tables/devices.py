"""Devices, the tokens they enrol with, and their groups and shadows."""

from __future__ import annotations

import time
from typing import Any

from sqlalchemy import (
    BigInteger,
    ForeignKey,
    String,
    Text,
)
from sqlalchemy.orm import Mapped, mapped_column

from edgec.fleet.store.tables.base import Base, Key


class Device(Base):
    """One device: its identity and its last reported state. `model`, `version` and `digest` are those of its main
    model; `DeviceSlot` has all of them."""

    __tablename__ = "devices"
    id: Mapped[int] = mapped_column(Key, primary_key=True)
    name: Mapped[str] = mapped_column(String(128), unique=True)
    admission: Mapped[str] = mapped_column(
        String(32), default="accepted", index=True
    )  # pending|accepted|revoked
    target: Mapped[str] = mapped_column(String(64), default="", index=True)
    agent_version: Mapped[str] = mapped_column(String(64), default="")
    labels: Mapped[dict[str, Any]] = mapped_column(default=dict)
    password_hash: Mapped[str] = mapped_column(String(255), default="")
    token_hash: Mapped[str] = mapped_column(String(64), default="", index=True)
    enrolled_at: Mapped[float] = mapped_column(default=time.time)
    state: Mapped[str] = mapped_column(
        String(32), default="never", index=True
    )  # never|online|stopped|offline
    boot_id: Mapped[str] = mapped_column(String(64), default="")
    session_seq: Mapped[int] = mapped_column(BigInteger, default=0)
    session_tokens: Mapped[list[str]] = mapped_column(default=list)
    """Of the session that holds the identity and of those before it, newest first."""
    rival: Mapped[dict[str, Any]] = mapped_column(default=dict)
    """Another process with this identity: see `edgec.fleet.devices.presence`."""
    report_interval_s: Mapped[float | None] = mapped_column()
    last_seen: Mapped[float | None] = mapped_column(index=True)
    model: Mapped[str] = mapped_column(String(128), default="")
    version: Mapped[str] = mapped_column(String(128), default="", index=True)
    digest: Mapped[str] = mapped_column(String(80), default="")
    fps: Mapped[float | None] = mapped_column()
    latency_ms: Mapped[float | None] = mapped_column()
    health: Mapped[dict[str, Any]] = mapped_column(default=dict)


class DeviceSlot(Base):
    """A model slot of a device: what it reports to run, and what the fleet wants it to run.

    Without a `desired_digest` nothing is wanted of the slot. `job_id` is the job that is at work on it; `reason` says
    why the slot does not run what is wanted, or why the last rollout to it failed.
    """

    __tablename__ = "device_slots"
    device_id: Mapped[int] = mapped_column(ForeignKey("devices.id", ondelete="CASCADE"), primary_key=True)
    slot: Mapped[str] = mapped_column(String(64), primary_key=True)
    model: Mapped[str] = mapped_column(String(128), default="", index=True)
    version: Mapped[str] = mapped_column(String(128), default="")
    digest: Mapped[str] = mapped_column(String(80), default="", index=True)
    state: Mapped[str] = mapped_column(String(16), default="")  # loading|running|probation|failed|absent
    message: Mapped[str] = mapped_column(Text, default="")
    desired_model: Mapped[str] = mapped_column(String(128), default="")
    desired_version: Mapped[str] = mapped_column(String(128), default="")
    desired_digest: Mapped[str] = mapped_column(String(80), default="", index=True)
    job_id: Mapped[str] = mapped_column(String(64), default="")
    reason: Mapped[str] = mapped_column(Text, default="")
    changed_at: Mapped[float] = mapped_column(default=time.time)


class EnrollToken(Base):
    """A token that lets devices enrol; only its hash is stored."""

    __tablename__ = "enroll_tokens"
    id: Mapped[int] = mapped_column(Key, primary_key=True)
    hash: Mapped[str] = mapped_column(String(64), unique=True)
    note: Mapped[str] = mapped_column(String(255), default="")
    labels: Mapped[dict[str, Any]] = mapped_column(default=dict)
    auto_accept: Mapped[bool] = mapped_column(default=True)
    uses_left: Mapped[int] = mapped_column(default=1)
    created_at: Mapped[float] = mapped_column(default=time.time)
    expires_at: Mapped[float] = mapped_column()
    created_by: Mapped[str] = mapped_column(String(128), default="")


class Group(Base):
    """Devices under one name: those listed, and those that the selector matches at the time of the query."""

    __tablename__ = "groups"
    id: Mapped[int] = mapped_column(Key, primary_key=True)
    name: Mapped[str] = mapped_column(String(128), unique=True)
    description: Mapped[str] = mapped_column(String(255), default="")
    devices: Mapped[list[str]] = mapped_column(default=list)
    selector: Mapped[dict[str, Any]] = mapped_column(default=dict)
    created_at: Mapped[float] = mapped_column(default=time.time)


class Shadow(Base):
    """A named shadow of a device: its desired and its reported state."""

    __tablename__ = "shadows"
    device_id: Mapped[int] = mapped_column(ForeignKey("devices.id", ondelete="CASCADE"), primary_key=True)
    name: Mapped[str] = mapped_column(String(64), primary_key=True)
    version: Mapped[int] = mapped_column(default=0)
    desired: Mapped[dict[str, Any]] = mapped_column(default=dict)
    reported: Mapped[dict[str, Any]] = mapped_column(default=dict)
    updated_at: Mapped[float] = mapped_column(default=time.time)
