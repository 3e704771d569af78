"""Authentication: by access token, device token, certificate or browser session."""

from __future__ import annotations

import base64
import time

from sqlalchemy import delete, select

from edgec.fleet.access.identity import Identity, Role
from edgec.fleet.access.secrets import new_secret, secret_hash
from edgec.fleet.audit.log import audit
from edgec.fleet.certificates.authority import peer_identity
from edgec.fleet.certificates.service import Certificates
from edgec.fleet.store.database import Database
from edgec.fleet.store.tables import AccessToken, Device, WebSession

SESSION_S = 14 * 86400.0
COOKIE = "edgec_session"


class Auth:
    """Resolves credentials to identities. Each look-up reads the database, so a revocation takes effect at once."""

    def __init__(self, database: Database, certificates: Certificates | None = None) -> None:
        self._database = database
        self._certificates = certificates

    def by_certificate(self, der: bytes) -> Identity | None:
        """The device whose certificate a verified TLS connection was made with."""
        shown = peer_identity(der)
        if shown is None or self._certificates is None:
            return None
        device_id = self._certificates.find_device(*shown)
        return Identity(f"device {shown[1]}", "device", (), device_id) if device_id is not None else None

    def by_token(self, token: str) -> Identity | None:
        """The operator or device that `token` belongs to."""
        digest = secret_hash(token)
        with self._database.reading() as session:
            row = session.scalar(select(AccessToken).filter_by(hash=digest))
            if row is not None:
                return _identity(row)
            device = session.scalar(select(Device).filter_by(token_hash=digest, admission="accepted"))
            return Identity(f"device {device.name}", "device", (), device.id) if device else None

    def by_header(self, header: str) -> Identity | None:
        """The identity of an `Authorization` header: Bearer, or Basic with the token as the password."""
        scheme, _, value = header.partition(" ")
        if scheme.lower() == "bearer":
            return self.by_token(value.strip())
        if scheme.lower() == "basic":
            try:
                _user, _, password = base64.b64decode(value, validate=True).decode().partition(":")
            except ValueError:  # from binascii, or not ASCII
                return None
            return self.by_token(password)
        return None

    def by_cookie(self, cookie: str) -> Identity | None:
        """The operator whose browser holds `cookie`."""
        with self._database.reading() as session:
            row = session.scalar(
                select(AccessToken)
                .join(WebSession, WebSession.token_id == AccessToken.id)
                .where(WebSession.hash == secret_hash(cookie), WebSession.expires_at > time.time())
            )
            return _identity(row) if row else None

    def sign_in(self, token: str) -> str | None:
        """Issue a session cookie for an operator's token; None if the token is not valid."""
        with self._database.writing() as session:
            row = session.scalar(select(AccessToken).filter_by(hash=secret_hash(token.strip())))
            if row is None or _identity(row) is None:
                return None
            session.execute(delete(WebSession).where(WebSession.expires_at < time.time()))
            cookie = new_secret("s")
            session.add(
                WebSession(hash=secret_hash(cookie), token_id=row.id, expires_at=time.time() + SESSION_S)
            )
            audit(session, row.name, "sign-in")
            return cookie

    def sign_out(self, cookie: str) -> None:
        """End a browser session."""
        with self._database.writing() as session:
            session.execute(delete(WebSession).filter_by(hash=secret_hash(cookie)))


def _identity(row: AccessToken) -> Identity | None:
    if row.revoked_at is not None or (row.expires_at is not None and row.expires_at < time.time()):
        return None
    role: Role = row.role if row.role in ("viewer", "operator", "admin") else "viewer"  # type: ignore[assignment]
    return Identity(row.name, role, tuple(row.models))


def expire_sessions(database: Database, now: float) -> None:
    """Delete the browser sessions that have ended by the Unix time `now`."""
    with database.writing() as session:
        session.execute(delete(WebSession).where(WebSession.expires_at < now))
