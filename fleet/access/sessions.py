"""Sessions of browsers: they end when nobody acts (idle) and in any case after some hours (absolute)."""

from __future__ import annotations

import time
from dataclasses import dataclass

from sqlalchemy import delete, or_, select, update
from sqlalchemy.orm import Session

from edgec.fleet.access.identity import Identity, Role, as_role
from edgec.fleet.access.secrets import new_secret, secret_hash
from edgec.fleet.audit.log import audit
from edgec.fleet.problems import Problem
from edgec.fleet.store.database import Database
from edgec.fleet.store.tables import AccessToken, SignInFlow, WebSession

COOKIE = "edgec_session"
TOUCH_S = 60.0
"""How exactly the last activity is recorded: not each request is worth a write."""


@dataclass(frozen=True, slots=True)
class SessionRules:
    """When a session ends: `idle_s` after the last activity, and `absolute_s` after it began; and how long a proof of
    presence is good for (`confirmed_s`). All in seconds."""

    idle_s: float = 3600.0
    absolute_s: float = 12 * 3600.0
    confirmed_s: float = 300.0


class Sessions:
    """The sessions of all browsers, in the database."""

    def __init__(self, database: Database, rules: SessionRules) -> None:
        self._database = database
        self.rules = rules

    def begin(
        self, session: Session, name: str, role: Role, *, token_id: int | None = None, subject: str = ""
    ) -> str:
        """Add a session; returns the cookie."""
        cookie, now = new_secret("s"), time.time()
        session.execute(delete(WebSession).where(WebSession.expires_at < now))
        session.add(
            WebSession(
                hash=secret_hash(cookie), token_id=token_id, name=name, role=role, subject=subject, created_at=now,
                seen_at=now, confirmed_at=now, expires_at=now + self.rules.absolute_s,
            )
        )  # fmt: skip
        return cookie

    def find(self, cookie: str, *, active: bool = False) -> Identity | None:
        """The person whose browser holds `cookie`; `active` when the request is something that the person did."""
        now, digest = time.time(), secret_hash(cookie)
        with self._database.reading() as session:
            found = session.execute(
                select(WebSession, AccessToken)
                .outerjoin(AccessToken, WebSession.token_id == AccessToken.id)
                .where(
                    WebSession.hash == digest, WebSession.expires_at > now,
                    WebSession.seen_at > now - self.rules.idle_s,
                )
            ).one_or_none()  # fmt: skip
        if found is None:
            return None
        row, token = found
        if row.token_id is not None and (token is None or not token_valid(token, now)):
            return None
        if active and now - row.seen_at > min(TOUCH_S, self.rules.idle_s / 4):
            self._touch(digest, now)
        role = as_role(token.role if token is not None else row.role)
        models = tuple(token.models) if token is not None else ()
        return Identity(row.name, role, models, session=digest, confirmed_at=row.confirmed_at)

    def _touch(self, digest: str, now: float) -> None:
        with self._database.writing() as session:
            session.execute(update(WebSession).where(WebSession.hash == digest).values(seen_at=now))

    def end(self, cookie: str) -> None:
        """End a session."""
        with self._database.writing() as session:
            row = session.scalar(select(WebSession).filter_by(hash=secret_hash(cookie)))
            if row is not None:
                audit(session, row.name, "sign-out")
                session.delete(row)

    def confirm(self, identity: Identity, token: str) -> bool:
        """Record that the person is there, if `token` is the one that the session began with."""
        with self._database.writing() as session:
            row = session.scalar(
                select(WebSession)
                .join(AccessToken, WebSession.token_id == AccessToken.id)
                .where(WebSession.hash == identity.session, AccessToken.hash == secret_hash(token.strip()))
            )
            if row is None:
                return False
            row.confirmed_at = time.time()
            audit(session, row.name, "session.confirm")
            return True

    def confirm_by_provider(self, session_hash: str, subject: str) -> bool:
        """Record that the person is there, if it was them (`subject`) who signed in at the provider again."""
        with self._database.writing() as session:
            row = session.scalar(
                select(WebSession).filter_by(hash=session_hash, subject=subject, token_id=None)
            )
            if row is None:
                return False
            row.confirmed_at = time.time()
            audit(session, row.name, "session.confirm")
            return True

    def confirmed(self, identity: Identity) -> bool:
        """Whether the person proved to be there recently. A token proves that with each request."""
        if not identity.session:
            return True
        with self._database.reading() as session:
            at = session.scalar(select(WebSession.confirmed_at).filter_by(hash=identity.session))
        return at is not None and time.time() - at < self.rules.confirmed_s

    def by_provider(self, identity: Identity) -> bool:
        """Whether the session began at an identity provider, where it is also confirmed."""
        with self._database.reading() as session:
            return session.scalar(
                select(WebSession.id).where(WebSession.hash == identity.session, WebSession.token_id.is_(None))
            ) is not None  # fmt: skip

    def expire(self, now: float) -> None:
        """Delete what has ended by the Unix time `now`."""
        ended = or_(WebSession.expires_at < now, WebSession.seen_at < now - self.rules.idle_s)
        with self._database.writing() as session:
            session.execute(delete(WebSession).where(ended))
            session.execute(delete(SignInFlow).where(SignInFlow.expires_at < now))


def token_valid(row: AccessToken, now: float) -> bool:
    """Whether an access token is neither revoked nor expired."""
    return row.revoked_at is None and (row.expires_at is None or row.expires_at > now)


def require_confirmed(sessions: Sessions, identity: Identity) -> Identity:
    """The identity, if the person behind it is known to be there; for acts that cannot be taken back.

    Raises:
        Problem: 403 of the type `confirm`: enter the access token, or sign in, once more.
    """
    if not sessions.confirmed(identity):
        raise Problem(
            403, "Confirm that it is you",
            "This cannot be taken back: enter your access token, or sign in, once more.", type="confirm",
        )  # fmt: skip
    return identity
