"""Access tokens, browser sessions and the audit log."""

from __future__ import annotations

import time
from typing import Any

from sqlalchemy import (
    ForeignKey,
    String,
)
from sqlalchemy.orm import Mapped, mapped_column

from edgec.fleet.store.tables.base import Base, Key


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
    """A browser that signed in; the cookie's hash and the access token behind it."""

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
