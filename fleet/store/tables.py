"""The database's tables. Times are UTC seconds since the epoch, as floats, so that both databases order
them alike."""

from __future__ import annotations

import time
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    Float,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    String,
    Text,
    UniqueConstraint,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

# SQLite counts rows by itself only for the type INTEGER.
Key = BigInteger().with_variant(Integer, "sqlite")


class Base(DeclarativeBase):
    """Parent of all tables."""

    type_annotation_map = {dict[str, Any]: JSON, list[Any]: JSON, list[str]: JSON, float: Float}  # noqa: RUF012


class Device(Base):
    """One device: who it is, what it should run, what it last said."""

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
    last_seen: Mapped[float | None] = mapped_column(index=True)
    model: Mapped[str] = mapped_column(String(128), default="")
    version: Mapped[str] = mapped_column(String(128), default="", index=True)
    digest: Mapped[str] = mapped_column(String(80), default="")
    desired_model: Mapped[str] = mapped_column(String(128), default="")
    desired_version: Mapped[str] = mapped_column(String(128), default="")
    fps: Mapped[float | None] = mapped_column()
    latency_ms: Mapped[float | None] = mapped_column()
    health: Mapped[dict[str, Any]] = mapped_column(default=dict)


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


class AccessToken(Base):
    """An operator's or a machine's token for the API and the registry; only its hash is stored."""

    __tablename__ = "access_tokens"
    id: Mapped[int] = mapped_column(Key, primary_key=True)
    name: Mapped[str] = mapped_column(String(128), unique=True)
    role: Mapped[str] = mapped_column(String(32))  # viewer|operator|admin
    hash: Mapped[str] = mapped_column(String(64), unique=True)
    models: Mapped[list[str]] = mapped_column(default=list)  # empty: every model
    created_at: Mapped[float] = mapped_column(default=time.time)
    expires_at: Mapped[float | None] = mapped_column()
    revoked_at: Mapped[float | None] = mapped_column()


class WebSession(Base):
    """A browser that signed in; the cookie's hash and the access token it stands for."""

    __tablename__ = "web_sessions"
    id: Mapped[int] = mapped_column(Key, primary_key=True)
    hash: Mapped[str] = mapped_column(String(64), unique=True)
    token_id: Mapped[int] = mapped_column(ForeignKey("access_tokens.id", ondelete="CASCADE"))
    expires_at: Mapped[float] = mapped_column(index=True)


class Audit(Base):
    """Who did what, when."""

    __tablename__ = "audit"
    id: Mapped[int] = mapped_column(Key, primary_key=True)
    at: Mapped[float] = mapped_column(default=time.time, index=True)
    actor: Mapped[str] = mapped_column(String(128))
    action: Mapped[str] = mapped_column(String(64))
    subject: Mapped[str] = mapped_column(String(255), default="")
    detail: Mapped[dict[str, Any]] = mapped_column(default=dict)


class Group(Base):
    """Devices under one name: those listed, and those that the selector matches at the moment of asking."""

    __tablename__ = "groups"
    id: Mapped[int] = mapped_column(Key, primary_key=True)
    name: Mapped[str] = mapped_column(String(128), unique=True)
    description: Mapped[str] = mapped_column(String(255), default="")
    devices: Mapped[list[str]] = mapped_column(default=list)
    selector: Mapped[dict[str, Any]] = mapped_column(default=dict)
    created_at: Mapped[float] = mapped_column(default=time.time)


class Manifest(Base):
    """A manifest of the registry, byte for byte as it was pushed."""

    __tablename__ = "manifests"
    __table_args__ = (UniqueConstraint("repository", "digest"),)
    id: Mapped[int] = mapped_column(Key, primary_key=True)
    repository: Mapped[str] = mapped_column(String(255), index=True)
    digest: Mapped[str] = mapped_column(String(80), index=True)
    media_type: Mapped[str] = mapped_column(String(255))
    artifact_type: Mapped[str] = mapped_column(String(255), default="")
    subject: Mapped[str] = mapped_column(String(80), default="", index=True)
    content: Mapped[bytes] = mapped_column(LargeBinary)
    annotations: Mapped[dict[str, Any]] = mapped_column(default=dict)
    created_at: Mapped[float] = mapped_column(default=time.time)


class ManifestBlob(Base):
    """Which blobs (or manifests, of an index) a manifest needs; garbage collection walks these."""

    __tablename__ = "manifest_blobs"
    manifest_id: Mapped[int] = mapped_column(ForeignKey("manifests.id", ondelete="CASCADE"), primary_key=True)
    digest: Mapped[str] = mapped_column(String(80), primary_key=True, index=True)


class Tag(Base):
    """A name for a manifest within a repository."""

    __tablename__ = "tags"
    repository: Mapped[str] = mapped_column(String(255), primary_key=True)
    name: Mapped[str] = mapped_column(String(128), primary_key=True)
    digest: Mapped[str] = mapped_column(String(80))
    updated_at: Mapped[float] = mapped_column(default=time.time)


class RepositoryBlob(Base):
    """Which repositories hold a blob: a reader of one model must not fetch another's by its digest."""

    __tablename__ = "repository_blobs"
    repository: Mapped[str] = mapped_column(String(255), primary_key=True)
    digest: Mapped[str] = mapped_column(String(80), primary_key=True, index=True)
    size: Mapped[int] = mapped_column(BigInteger)
    created_at: Mapped[float] = mapped_column(default=time.time)


class ModelVersion(Base):
    """One artifact of a model: a version for a target, read from the manifest when it was pushed."""

    __tablename__ = "model_versions"
    __table_args__ = (UniqueConstraint("model", "version", "target"),)
    id: Mapped[int] = mapped_column(Key, primary_key=True)
    model: Mapped[str] = mapped_column(String(128), index=True)
    version: Mapped[str] = mapped_column(String(128))
    target: Mapped[str] = mapped_column(String(64))
    repository: Mapped[str] = mapped_column(String(255))
    digest: Mapped[str] = mapped_column(String(80), index=True)
    size: Mapped[int] = mapped_column(BigInteger)
    config: Mapped[dict[str, Any]] = mapped_column(default=dict)
    evidence: Mapped[dict[str, Any]] = mapped_column(default=dict)
    report_digest: Mapped[str] = mapped_column(String(80), default="")
    pushed_at: Mapped[float] = mapped_column(default=time.time)


class Rollout(Base):
    """One version on its way to devices. ``plan`` is a :class:`edgec.fleet.rollouts.plan.Plan`."""

    __tablename__ = "rollouts"
    id: Mapped[int] = mapped_column(Key, primary_key=True)
    model: Mapped[str] = mapped_column(String(128), index=True)
    version: Mapped[str] = mapped_column(String(128))
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
    """A device in a rollout: the stage it belongs to and how it fared."""

    __tablename__ = "members"
    __table_args__ = (UniqueConstraint("rollout_id", "device_id"),)
    id: Mapped[int] = mapped_column(Key, primary_key=True)
    rollout_id: Mapped[int] = mapped_column(ForeignKey("rollouts.id", ondelete="CASCADE"), index=True)
    device_id: Mapped[int] = mapped_column(ForeignKey("devices.id", ondelete="CASCADE"), index=True)
    rank: Mapped[int] = mapped_column(default=0)
    stage: Mapped[int] = mapped_column(default=0)
    state: Mapped[str] = mapped_column(String(32), default="WAITING", index=True)
    attempts: Mapped[int] = mapped_column(default=0)
    job_id: Mapped[str] = mapped_column(String(64), default="")
    previous_model: Mapped[str] = mapped_column(String(128), default="")
    previous_version: Mapped[str] = mapped_column(String(128), default="")
    changed_at: Mapped[float] = mapped_column(default=time.time)
    detail: Mapped[str] = mapped_column(Text, default="")


class Job(Base):
    """One thing that one device was asked to do, and its execution."""

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


class Shadow(Base):
    """A named shadow of a device: what it should be and what it says it is."""

    __tablename__ = "shadows"
    device_id: Mapped[int] = mapped_column(ForeignKey("devices.id", ondelete="CASCADE"), primary_key=True)
    name: Mapped[str] = mapped_column(String(64), primary_key=True)
    version: Mapped[int] = mapped_column(default=0)
    desired: Mapped[dict[str, Any]] = mapped_column(default=dict)
    reported: Mapped[dict[str, Any]] = mapped_column(default=dict)
    updated_at: Mapped[float] = mapped_column(default=time.time)


class Detection(Base):
    """One event of a stream. ``event_id`` is the CloudEvents id, unique per device: a repeat is not a
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
