"""The registry: manifests, tags, blobs, and the model versions read from them."""

from __future__ import annotations

import time
from typing import Any

from sqlalchemy import (
    BigInteger,
    ForeignKey,
    Index,
    LargeBinary,
    String,
    UniqueConstraint,
)
from sqlalchemy.orm import Mapped, mapped_column

from edgec.fleet.store.tables.base import Base, Key


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


class RetiredVersion(Base):
    """An artifact that was deleted: its version is never given to another one."""

    __tablename__ = "retired_versions"
    __table_args__ = (UniqueConstraint("model", "version", "target"),)
    id: Mapped[int] = mapped_column(Key, primary_key=True)
    model: Mapped[str] = mapped_column(String(128), index=True)
    version: Mapped[str] = mapped_column(String(128))
    target: Mapped[str] = mapped_column(String(64))
    digest: Mapped[str] = mapped_column(String(80))
    retired_at: Mapped[float] = mapped_column(default=time.time)


class ModelTag(Base):
    """A name that moves from version to version of a model, such as `stable`."""

    __tablename__ = "model_tags"
    model: Mapped[str] = mapped_column(String(128), primary_key=True)
    name: Mapped[str] = mapped_column(String(64), primary_key=True)
    version: Mapped[str] = mapped_column(String(128))
    moved_at: Mapped[float] = mapped_column(default=time.time)


class TagMove(Base):
    """One move of a model's tag; an empty `version` removed it."""

    __tablename__ = "tag_moves"
    __table_args__ = (Index("ix_tag_moves_model_name", "model", "name"),)
    id: Mapped[int] = mapped_column(Key, primary_key=True)
    model: Mapped[str] = mapped_column(String(128))
    name: Mapped[str] = mapped_column(String(64))
    version: Mapped[str] = mapped_column(String(128), default="")
    previous: Mapped[str] = mapped_column(String(128), default="")
    actor: Mapped[str] = mapped_column(String(128), default="")
    at: Mapped[float] = mapped_column(default=time.time)
