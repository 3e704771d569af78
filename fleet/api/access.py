"""Enrolment, tokens, sign-in and the audit log under ``/api/v1``."""

from __future__ import annotations

import base64
import time
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import Select, delete, or_, select
from sqlalchemy.orm import Session

from edgec.fleet.access.auth import COOKIE, SESSION_S, audit, create_access_token
from edgec.fleet.api.context import (
    Admin,
    Cursor,
    Limit,
    Operator,
    Server,
    Viewer,
    next_cursor,
    number_cursor,
    page,
)
from edgec.fleet.devices.service import admit, create_enroll_token, enroll
from edgec.fleet.errors import Problem
from edgec.fleet.server import Services
from edgec.fleet.store.tables import AccessToken, Audit, Device, EnrollToken, WebSession
from edgec.protocol.enrol import EnrollRequest, EnrollResponse, RegistryAccess
from edgec.protocol.names import Name

router = APIRouter(prefix="/api/v1", tags=["access"])


@router.post("/enroll", status_code=201, response_model_exclude_none=True)
def enroll_device(server: Server, request: EnrollRequest) -> EnrollResponse:
    """Turn an enrolment token into a device's own credentials. They are shown once, in this answer."""
    pem = None
    with server.database.writing() as session:
        if request.claim is not None:
            device, password, token = _by_claim(server, session, request)
        else:
            device, password, token = enroll(session, request)
        if request.csr is not None and server.certificates.authority is not None:
            pem = server.certificates.give(session, device, request.csr)
    server.devices_changed()
    mqtt = server.mqtt.model_copy(update={"username": device.name, "password": password})
    return EnrollResponse(
        device=device.name,
        fleet=server.settings.fleet,
        mqtt=mqtt,
        registry=RegistryAccess(url=server.url, token=token),
        api_url=server.url,
        certificate=pem,
        ca_pem=server.certificates.ca_pem,
        trusted_root=root.decode() if (root := server.trust.first_root()) else None,
    )


def _by_claim(server: Services, session: Session, request: EnrollRequest) -> tuple[Device, str, str]:
    try:
        signature = base64.b64decode(request.claim_signature or "", validate=True)
    except ValueError as error:  # binascii's, and what is no ASCII
        raise Problem(422, "Bad signature", "claim_signature is no base64.") from error
    claim = server.certificates.use_claim(session, request.claim or "", signature, request.csr or "")
    return admit(session, request, by=f"claim {claim.serial}", accept=claim.auto_accept, labels={})


class NewEnrollToken(BaseModel):
    """An enrolment token to make."""

    model_config = ConfigDict(extra="forbid")
    uses: int = Field(1, ge=1, le=100_000)
    valid_s: float = Field(86400.0, gt=0, le=366 * 86400)
    labels: dict[
        Annotated[str, Field(min_length=1, max_length=63)], Annotated[str, Field(max_length=255)]
    ] = Field(default_factory=dict)
    auto_accept: bool | None = Field(
        None, description="Accept such devices at once; the server's setting if not given."
    )
    note: str = Field("", max_length=255)


@router.post("/enroll-tokens", status_code=201)
def make_enroll_token(server: Server, who: Operator, body: NewEnrollToken) -> dict[str, Any]:
    """Make an enrolment token; the secret is in this answer only."""
    accept = server.settings.auto_accept if body.auto_accept is None else body.auto_accept
    with server.database.writing() as session:
        row, secret = create_enroll_token(
            session, who.name, uses=body.uses, valid_s=body.valid_s, labels=body.labels, auto_accept=accept,
            note=body.note,
        )  # fmt: skip
        return _enroll_token(row) | {"token": secret}


def _enroll_token(row: EnrollToken) -> dict[str, Any]:
    fields = ("id", "note", "labels", "auto_accept", "uses_left", "created_at", "expires_at", "created_by")
    return {field: getattr(row, field) for field in fields}


@router.get("/enroll-tokens")
def list_enroll_tokens(server: Server, _who: Operator) -> dict[str, Any]:
    """Enrolment tokens that still let devices in."""
    with server.database.reading() as session:
        rows = session.scalars(
            select(EnrollToken).where(EnrollToken.uses_left > 0, EnrollToken.expires_at > time.time())
        )
        return page([_enroll_token(row) for row in rows], None)


@router.delete("/enroll-tokens/{token_id}", status_code=204)
def revoke_enroll_token(server: Server, who: Operator, token_id: int) -> None:
    """Make a token useless; devices that enrolled with it stay."""
    with server.database.writing() as session:
        row = session.get(EnrollToken, token_id) if 0 < token_id < 2**53 else None
        if row is None:
            raise Problem(404, "Token not found", f"There is no enrolment token {token_id}.")
        row.uses_left = 0
        audit(session, who.name, "enroll-token.revoke", str(token_id))


class NewAccessToken(BaseModel):
    """An operator's or a machine's token to make."""

    model_config = ConfigDict(extra="forbid")
    name: Name
    role: Literal["viewer", "operator", "admin"] = "viewer"
    models: list[Name] = Field(default_factory=list, description="Repositories it may use; empty for all.")
    valid_s: float | None = Field(None, gt=0, le=3660 * 86400)


def _access_token(row: AccessToken) -> dict[str, Any]:
    fields = ("name", "role", "models", "created_at", "expires_at", "revoked_at")
    return {field: getattr(row, field) for field in fields}


@router.post("/access-tokens", status_code=201)
def make_access_token(server: Server, who: Admin, body: NewAccessToken) -> dict[str, Any]:
    """Make an access token; the secret is in this answer only."""
    with server.database.writing() as session:
        row, secret = create_access_token(
            session, body.name, body.role, models=list(body.models), valid_s=body.valid_s
        )
        audit(session, who.name, "access-token.create", body.name, role=body.role)
        return _access_token(row) | {"token": secret}


@router.get("/access-tokens")
def list_access_tokens(server: Server, _who: Admin) -> dict[str, Any]:
    """Every access token, without its secret."""
    with server.database.reading() as session:
        return page(
            [_access_token(row) for row in session.scalars(select(AccessToken).order_by(AccessToken.name))],
            None,
        )


@router.delete("/access-tokens/{name}", status_code=204)
def revoke_access_token(server: Server, who: Admin, name: str) -> None:
    """Make a token, and every browser that signed in with it, useless at once."""
    if name == who.name:
        raise Problem(409, "Your own token", "Use another administrator's token to revoke this one.")
    with server.database.writing() as session:
        row = session.scalar(select(AccessToken).filter_by(name=name))
        if row is None:
            raise Problem(404, "Token not found", f"There is no access token called {name!r}.")
        row.revoked_at = row.revoked_at or time.time()
        session.execute(delete(WebSession).filter_by(token_id=row.id))
        audit(session, who.name, "access-token.revoke", name)


@router.get("/me")
def me(_server: Server, who: Viewer) -> dict[str, Any]:
    """Who the caller is."""
    return {"name": who.name, "role": who.role, "models": list(who.models)}


def audit_query(search: str) -> Select[Audit]:
    """Lines of the audit log whose actor, action or subject has ``search`` in it."""
    query = select(Audit)
    if search:
        pattern = "%" + search.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_") + "%"
        columns = (Audit.actor, Audit.action, Audit.subject)
        query = query.where(or_(*(column.ilike(pattern, escape="\\") for column in columns)))
    return query


@router.get("/audit")
def list_audit(
    server: Server, _who: Admin, limit: Limit = 100, cursor: Cursor = "",
    search: Annotated[str, Query(max_length=128)] = "",
) -> dict[str, Any]:  # fmt: skip
    """The audit log, newest first."""
    query = audit_query(search).order_by(Audit.id.desc()).limit(limit + 1)
    if (before := number_cursor(cursor)) is not None:
        query = query.where(Audit.id < before)
    with server.database.reading() as session:
        rows = list(session.scalars(query))
    fields = ("at", "actor", "action", "subject", "detail")
    items = [{field: getattr(row, field) for field in fields} for row in rows[:limit]]
    return page(items, next_cursor(rows, limit, lambda row: row.id))


class SignIn(BaseModel):
    """What the sign-in page sends."""

    token: str = Field(min_length=1, max_length=512)


@router.post("/session", status_code=204, tags=["session"])
def sign_in(server: Server, body: SignIn, response: Response) -> None:
    """Sign a browser in with an access token: sets the session cookie."""
    cookie = server.auth.sign_in(body.token)
    if cookie is None:
        raise Problem(401, "Token refused", "This token is unknown, expired or revoked.")
    response.set_cookie(
        COOKIE, cookie, max_age=int(SESSION_S), httponly=True, samesite="lax",
        secure=server.settings.secure_cookies, path="/",
    )  # fmt: skip


@router.delete("/session", status_code=204, tags=["session"])
def sign_out(server: Server, request: Request, response: Response) -> None:
    """Sign the browser out."""
    if cookie := request.cookies.get(COOKIE):
        server.auth.sign_out(cookie)
    response.delete_cookie(COOKIE, path="/")
