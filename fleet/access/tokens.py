"""Access tokens of operators and machines."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import delete, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from edgec.fleet.access.identity import AREAS
from edgec.fleet.access.secrets import new_secret, secret_hash
from edgec.fleet.audit.log import audit
from edgec.fleet.problems import Problem
from edgec.fleet.store.database import Database
from edgec.fleet.store.files import replace_file
from edgec.fleet.store.tables import AccessToken, WebSession
from edgec.protocol.names import Name

ADMIN_FILE = "admin-token"
ADMIN = "admin"
VALID_S = 90 * 86400.0
LONGEST_S = 366 * 86400.0
Scope = Annotated[str, Field(pattern=rf"^({'|'.join(AREAS)}):(read|write)$")]


class NewAccessToken(BaseModel):
    """An access token to issue."""

    model_config = ConfigDict(extra="forbid")
    name: Name
    role: Literal["viewer", "operator", "admin"] = "viewer"
    models: list[Name] = Field(default_factory=list, description="Repositories it may use; empty for all.")
    scopes: list[Scope] = Field(
        default_factory=list, max_length=64,
        description="Areas of the API it may use, as AREA:read or AREA:write; empty for all that the role may do. "
        "A token with scopes cannot sign in to the dashboard.",
    )  # fmt: skip
    valid_s: float = Field(default=VALID_S, gt=0, le=LONGEST_S, description="Every token expires.")


def issue_access_token(session: Session, actor: str, wanted: NewAccessToken) -> tuple[AccessToken, str]:
    """Add an operator's token; the second value is the secret, shown once.

    Raises:
        Problem: 409 when the name is taken.
    """
    if session.scalar(select(AccessToken.id).filter_by(name=wanted.name)):
        raise Problem(409, "Name taken", f"There is already an access token called {wanted.name!r}.")
    row, secret = _add(session, wanted)
    audit(
        session, actor, "access-token.create", row.name, role=row.role, scopes=row.scopes, models=row.models,
        expires_at=row.expires_at,
    )  # fmt: skip
    return row, secret


def _add(session: Session, wanted: NewAccessToken) -> tuple[AccessToken, str]:
    secret = new_secret("edgec")
    row = AccessToken(
        name=wanted.name,
        role=wanted.role,
        hash=secret_hash(secret),
        models=list(wanted.models),
        scopes=sorted(set(wanted.scopes)),
        expires_at=time.time() + wanted.valid_s,
    )
    session.add(row)
    session.flush()
    return row, secret


def revoke_access_token(session: Session, actor: str, name: str) -> None:
    """Revoke a token, and sign out every browser that signed in with it.

    Raises:
        Problem: 404; 409 for the token of the actor.
    """
    if name == actor:
        raise Problem(409, "Your own token", "Use another administrator's token to revoke this one.")
    row = session.scalar(select(AccessToken).filter_by(name=name))
    if row is None:
        raise Problem(404, "Token not found", f"There is no access token called {name!r}.")
    row.revoked_at = row.revoked_at or time.time()
    session.execute(delete(WebSession).filter_by(token_id=row.id))
    audit(session, actor, "access-token.revoke", name)


def ensure_admin(database: Database, data: Path) -> tuple[Path, bool]:
    """Ensure that there is an administrator; returns the file with its token, and whether it was created just now."""
    path = data / ADMIN_FILE
    try:
        with database.writing() as session:
            if session.scalar(select(AccessToken.id).filter_by(name=ADMIN)) is not None:
                return path, False
            _row, secret = _add(session, NewAccessToken(name=ADMIN, role="admin"))
            audit(session, "first start", "access-token.create", ADMIN, role="admin")
    except IntegrityError:
        return path, False  # Another process of the fleet started at the same moment.
    replace_file(path, f"{secret}\n".encode())
    return path, True


def renew_admin(database: Database, data: Path) -> Path:
    """Give the token `admin` a new secret, valid from now on, and end its sessions; returns the file with it.

    It is for who can read the server's data folder and database anyway, and has lost every other token.
    """
    path = data / ADMIN_FILE
    with database.writing() as session:
        row = session.scalar(select(AccessToken).filter_by(name=ADMIN))
        if row is None:
            row, secret = _add(session, NewAccessToken(name=ADMIN, role="admin"))
        else:
            secret = new_secret("edgec")
            session.execute(delete(WebSession).filter_by(token_id=row.id))
            row.hash, row.role, row.revoked_at = secret_hash(secret), "admin", None
            row.models, row.scopes = [], []
            row.expires_at = time.time() + VALID_S
        audit(session, "console", "access-token.renew", ADMIN)
        replace_file(path, f"{secret}\n".encode())
    return path
