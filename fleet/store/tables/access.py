"""Access tokens, browser sessions, failed attempts, users of the broker and the audit log."""

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
    scopes: Mapped[list[str]] = mapped_column(default=list)  # empty: all that the role may do
    created_at: Mapped[float] = mapped_column(default=time.time)
    expires_at: Mapped[float | None] = mapped_column()
    revoked_at: Mapped[float | None] = mapped_column()


class WebSession(Base):
    """A browser that signed in, with an access token or through an identity provider (then without `token_id`)."""

    __tablename__ = "web_sessions"
    id: Mapped[int] = mapped_column(Key, primary_key=True)
    hash: Mapped[str] = mapped_column(String(64), unique=True)
    token_id: Mapped[int | None] = mapped_column(ForeignKey("access_tokens.id", ondelete="CASCADE"))
    name: Mapped[str] = mapped_column(String(128))
    role: Mapped[str] = mapped_column(String(32))
    subject: Mapped[str] = mapped_column(String(255), default="")  # the provider's name for the person
    created_at: Mapped[float] = mapped_column(default=time.time)
    seen_at: Mapped[float] = mapped_column(default=time.time)
    confirmed_at: Mapped[float] = mapped_column(default=time.time)
    expires_at: Mapped[float] = mapped_column(index=True)


class SignInFlow(Base):
    """A sign-in that was sent to the identity provider and has not come back yet."""

    __tablename__ = "sign_in_flows"
    hash: Mapped[str] = mapped_column(String(64), primary_key=True)  # of `state`
    nonce: Mapped[str] = mapped_column(String(64))
    verifier: Mapped[str] = mapped_column(String(128))
    target: Mapped[str] = mapped_column(String(1024))
    session: Mapped[str] = mapped_column(String(64), default="")  # hash of the session that it confirms
    expires_at: Mapped[float] = mapped_column(index=True)


class Attempts(Base):
    """Failed attempts from one address, and until when it is locked out."""

    __tablename__ = "attempts"
    kind: Mapped[str] = mapped_column(String(32), primary_key=True)  # sign-in|token|enrolment|confirmation
    address: Mapped[str] = mapped_column(String(64), primary_key=True)
    failures: Mapped[int] = mapped_column(default=0)
    since: Mapped[float] = mapped_column(default=time.time, index=True)
    locked_until: Mapped[float] = mapped_column(default=0.0)


class MqttUser(Base):
    """A user of the broker that is no device, such as Home Assistant."""

    __tablename__ = "mqtt_users"
    id: Mapped[int] = mapped_column(Key, primary_key=True)
    name: Mapped[str] = mapped_column(String(128), unique=True)
    password_hash: Mapped[str] = mapped_column(String(255))
    reads: Mapped[list[str]] = mapped_column(default=list)  # topic filters that it may subscribe to
    writes: Mapped[list[str]] = mapped_column(default=list)  # topic filters that it may publish to
    created_at: Mapped[float] = mapped_column(default=time.time)
    created_by: Mapped[str] = mapped_column(String(128), default="")


class Audit(Base):
    """Who did what, when. Rows are only added, as the database enforces, and each hash covers the one before."""

    __tablename__ = "audit"
    id: Mapped[int] = mapped_column(Key, primary_key=True)
    at: Mapped[float] = mapped_column(default=time.time, index=True)
    actor: Mapped[str] = mapped_column(String(128))
    action: Mapped[str] = mapped_column(String(64))
    subject: Mapped[str] = mapped_column(String(255), default="")
    detail: Mapped[dict[str, Any]] = mapped_column(default=dict)
    hash: Mapped[str] = mapped_column(String(64))
