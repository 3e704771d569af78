"""Authentication: by access token, device token, certificate or browser session."""

from __future__ import annotations

import base64
import time

from sqlalchemy import select

from edgec.fleet.access.identity import Identity, as_role
from edgec.fleet.access.limits import Limits, Lockout
from edgec.fleet.access.secrets import secret_hash
from edgec.fleet.access.sessions import SessionRules, Sessions, token_valid
from edgec.fleet.audit.log import audit
from edgec.fleet.certificates.authority import peer_identity
from edgec.fleet.certificates.service import Certificates
from edgec.fleet.store.database import Database
from edgec.fleet.store.tables import AccessToken, Device


class Auth:
    """Resolves credentials to identities. Each look-up reads the database, so a revocation takes effect at once.

    Attributes:
        sessions: the browsers that are signed in.
        limits: failed attempts, which lock an address out.
    """

    def __init__(
        self,
        database: Database,
        certificates: Certificates | None = None,
        rules: SessionRules | None = None,
        lockout: Lockout | None = None,
    ) -> None:
        self._database = database
        self._certificates = certificates
        self.sessions = Sessions(database, rules or SessionRules())
        self.limits = Limits(database, lockout or Lockout())

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

    def by_header(self, header: str, address: str = "") -> Identity | None:
        """The identity of an `Authorization` header: Bearer, or Basic with the token as the password.

        A token that nobody has counts as a failed attempt of `address`. Those of known devices that are not accepted
        do not: they ask for as long as they are switched on. Valid tokens are accepted even from an address that is
        locked out, so that nobody can shut out the devices behind the same address.

        Raises:
            Problem: 429 for an invalid token from an address that is locked out.
        """
        token = _token(header)
        if token is None:
            return None
        found = self.by_token(token)
        if found is None and address:
            whose = self._known(token)
            if not whose.startswith("device "):
                self.limits.failed("token", address, whose, "expired or revoked" if whose else "unknown")
        return found

    def _known(self, token: str) -> str:
        """Whose a token is that is not valid; empty if it is nobody's."""
        digest = secret_hash(token)
        with self._database.reading() as session:
            if name := session.scalar(select(AccessToken.name).filter_by(hash=digest)):
                return name
            device = session.scalar(select(Device.name).filter_by(token_hash=digest))
            return f"device {device}" if device else ""

    def by_cookie(self, cookie: str, *, active: bool = False) -> Identity | None:
        """The person whose browser holds `cookie`; see `Sessions.find`."""
        return self.sessions.find(cookie, active=active)

    def sign_in(self, token: str, address: str = "") -> str | None:
        """Issue a session cookie for an operator's token; None if the token is not valid, or restricted to scopes:
        such a token is a machine's.

        Raises:
            Problem: 429 when `address` is locked out.
        """
        if address:
            self.limits.check("sign-in", address)
        with self._database.writing() as session:
            row = session.scalar(select(AccessToken).filter_by(hash=secret_hash(token.strip())))
            who = _identity(row) if row is not None else None
            if row is not None and who is not None and not who.scopes:
                cookie = self.sessions.begin(session, row.name, who.role, token_id=row.id)
                audit(session, row.name, "sign-in", address=address)
                return cookie
        if address:
            reason = "unknown" if row is None else "restricted to scopes" if who else "expired or revoked"
            self.limits.failed("sign-in", address, row.name if row is not None else "", reason)
        return None

    def sign_out(self, cookie: str) -> None:
        """End a browser session."""
        self.sessions.end(cookie)

    def expire(self, now: float) -> None:
        """Delete sessions and counts of attempts that no longer matter at the Unix time `now`."""
        self.sessions.expire(now)
        self.limits.forget(now)


def _token(header: str) -> str | None:
    scheme, _, value = header.partition(" ")
    if scheme.lower() == "bearer":
        return value.strip()
    if scheme.lower() == "basic":
        try:
            return base64.b64decode(value, validate=True).decode().partition(":")[2]
        except ValueError:  # from binascii, or not ASCII
            return None
    return None


def _identity(row: AccessToken) -> Identity | None:
    if not token_valid(row, time.time()):
        return None
    return Identity(row.name, as_role(row.role), tuple(row.models), scopes=tuple(row.scopes))
