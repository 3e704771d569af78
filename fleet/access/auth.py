"""Who asks: tokens, roles, browser sessions and the audit log. Secrets are random and long, so a plain hash
keeps them."""

from __future__ import annotations

import base64
import hashlib
import os
import secrets
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from edgec.fleet.errors import Problem
from edgec.fleet.store.database import Database
from edgec.fleet.store.tables import AccessToken, Audit, Device, WebSession

if TYPE_CHECKING:
    from edgec.fleet.certificates.service import Certificates

Role = Literal["viewer", "operator", "admin", "device"]
RANK: dict[str, int] = {"device": 0, "viewer": 1, "operator": 2, "admin": 3}
SESSION_S = 14 * 86400.0
COOKIE = "edgec_session"
ADMIN_FILE = "admin-token"


def new_secret(prefix: str) -> str:
    """A secret of 256 bits; the prefix tells people and secret scanners what it is."""
    return f"{prefix}_{secrets.token_urlsafe(32)}"


def secret_hash(secret: str) -> str:
    """What is stored of a secret."""
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()


@dataclass(frozen=True, slots=True)
class Identity:
    """Someone who showed a valid token. ``models`` empty means every model; ``device_id`` is set for
    devices."""

    name: str
    role: Role
    models: tuple[str, ...] = ()
    device_id: int | None = None

    def may(self, role: Role) -> bool:
        """Whether this one has at least ``role``."""
        return RANK[self.role] >= RANK[role]

    def may_use_repository(self, repository: str, *, write: bool) -> bool:
        """Whether the registry lets this one read, or write, ``repository``."""
        if write and not self.may("operator"):
            return False
        return not self.models or repository.removeprefix("models/") in self.models


def require(identity: Identity | None, role: Role) -> Identity:
    """The identity, if it has ``role``.

    Raises:
        Problem: 401 without an identity, 403 with too weak a one.
    """
    if identity is None:
        raise Problem(401, "Sign in", "Send a valid access token as 'Authorization: Bearer …'.")
    if not identity.may(role):
        raise Problem(403, "Not allowed", f"This needs the role {role}; {identity.name} is {identity.role}.")
    return identity


class Auth:
    """Looks tokens up; every look-up sees revocations at once."""

    def __init__(self, database: Database, certificates: Certificates | None = None) -> None:
        self._database = database
        self._certificates = certificates

    def by_certificate(self, der: bytes) -> Identity | None:
        """The device whose certificate a verified TLS connection was made with."""
        from edgec.fleet.certificates.authority import peer

        shown = peer(der)
        if shown is None or self._certificates is None:
            return None
        device_id = self._certificates.good(*shown)
        return Identity(f"device {shown[1]}", "device", (), device_id) if device_id is not None else None

    def by_token(self, token: str) -> Identity | None:
        """The operator or device that ``token`` belongs to."""
        digest = secret_hash(token)
        with self._database.reading() as session:
            row = session.scalar(select(AccessToken).filter_by(hash=digest))
            if row is not None:
                return _identity(row)
            device = session.scalar(select(Device).filter_by(token_hash=digest, admission="accepted"))
            return Identity(f"device {device.name}", "device", (), device.id) if device else None

    def by_header(self, header: str) -> Identity | None:
        """From an ``Authorization`` header: Bearer, or Basic with the token as the password."""
        scheme, _, value = header.partition(" ")
        if scheme.lower() == "bearer":
            return self.by_token(value.strip())
        if scheme.lower() == "basic":
            try:
                _user, _, password = base64.b64decode(value, validate=True).decode().partition(":")
            except ValueError:  # binascii's, of the text, and what is no ASCII
                return None
            return self.by_token(password)
        return None

    def by_cookie(self, cookie: str) -> Identity | None:
        """The operator whose browser holds ``cookie``."""
        with self._database.reading() as session:
            row = session.scalar(
                select(AccessToken)
                .join(WebSession, WebSession.token_id == AccessToken.id)
                .where(WebSession.hash == secret_hash(cookie), WebSession.expires_at > time.time())
            )
            return _identity(row) if row else None

    def sign_in(self, token: str) -> str | None:
        """A cookie for a browser that showed an operator's token; None if the token is not valid."""
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
        """Forget a browser."""
        with self._database.writing() as session:
            session.execute(delete(WebSession).filter_by(hash=secret_hash(cookie)))


def _identity(row: AccessToken) -> Identity | None:
    if row.revoked_at is not None or (row.expires_at is not None and row.expires_at < time.time()):
        return None
    role: Role = row.role if row.role in ("viewer", "operator", "admin") else "viewer"  # type: ignore[assignment]
    return Identity(row.name, role, tuple(row.models))


def create_access_token(
    session: Session, name: str, role: str, *, models: list[str] | None = None, valid_s: float | None = None
) -> tuple[AccessToken, str]:
    """Add an operator's token; the second value is the secret, shown once.

    Raises:
        Problem: 409 when the name is taken.
    """
    if session.scalar(select(AccessToken.id).filter_by(name=name)):
        raise Problem(409, "Name taken", f"There is already an access token called {name!r}.")
    secret = new_secret("edgec")
    expires = time.time() + valid_s if valid_s else None
    row = AccessToken(name=name, role=role, hash=secret_hash(secret), models=models or [], expires_at=expires)
    session.add(row)
    session.flush()
    return row, secret


def ensure_admin(database: Database, data: Path) -> tuple[Path, bool]:
    """Make sure there is an administrator: the file with the token, and whether it was made just now."""
    path = data / ADMIN_FILE
    with database.writing() as session:
        row = session.scalar(select(AccessToken).filter_by(name="admin"))
        if row is not None:
            return path, False
        _row, secret = create_access_token(session, "admin", "admin")
        partial = path.with_suffix(".partial")
        partial.unlink(missing_ok=True)
        descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as stream:
            stream.write(secret + "\n")
            stream.flush()
            os.fsync(stream.fileno())
        partial.replace(path)
        return path, True


def audit(session: Session, actor: str, action: str, subject: str = "", **detail: Any) -> None:  # noqa: ANN401 - JSON
    """Write a line of the audit log, within the transaction of what it records."""
    session.add(Audit(actor=actor, action=action, subject=subject[:255], detail=detail))
