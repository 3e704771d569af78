"""Enrolment of devices, and the tokens for it, under `/api/v1`."""

from __future__ import annotations

import base64
import time
from typing import Any

from fastapi import APIRouter, Request
from sqlalchemy import select
from sqlalchemy.orm import Session

from edgec.fleet.api.context import (
    Operator,
    Server,
    address,
    page,
)
from edgec.fleet.devices.enrolment import (
    NewEnrollToken,
    admit,
    enroll,
    issue_enroll_token,
    revoke_enroll_token,
)
from edgec.fleet.problems import Problem
from edgec.fleet.services import Services
from edgec.fleet.store.tables import Device, EnrollToken
from edgec.protocol.enrol import EnrollRequest, EnrollResponse, RegistryAccess

router = APIRouter(prefix="/api/v1", tags=["enrolment"])


@router.post("/enroll", status_code=201, response_model_exclude_none=True)
def enroll_device(server: Server, connection: Request, request: EnrollRequest) -> EnrollResponse:
    """Exchange an enrolment token or a claim for a device's own credentials. They are shown once, in this
    response. Refused attempts are recorded, and lock an address out."""
    server.auth.limits.check("enrolment", address(connection))
    try:
        return _enroll(server, request)
    except Problem as problem:
        if problem.status == 403:
            server.auth.limits.failed("enrolment", address(connection), request.device or "", problem.title)
        raise


def _enroll(server: Services, request: EnrollRequest) -> EnrollResponse:
    pem = None
    with server.database.writing() as session:
        if request.claim is not None:
            device, password, token = _by_claim(server, session, request)
        else:
            device, password, token = enroll(session, request)
        if request.csr is not None and server.certificates.authority is not None:
            pem = server.certificates.issue(session, device, request.csr)
    server.devices_changed()
    mqtt = server.mqtt_access.model_copy(update={"username": device.name, "password": password})
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
    except ValueError as error:  # from binascii, or not ASCII
        raise Problem(422, "Bad signature", "claim_signature is not valid base64.") from error
    claim = server.certificates.use_claim(session, request.claim or "", signature, request.csr or "")
    return admit(session, request, by=f"claim {claim.serial}", accept=claim.auto_accept, labels={})


@router.post("/enroll-tokens", status_code=201)
def make_enroll_token(server: Server, who: Operator, body: NewEnrollToken) -> dict[str, Any]:
    """Create an enrolment token. The secret is in this response only."""
    with server.database.writing() as session:
        row, secret = issue_enroll_token(session, who.name, body, auto_accept=server.settings.auto_accept)
        return _enroll_token(row) | {"token": secret}


def _enroll_token(row: EnrollToken) -> dict[str, Any]:
    fields = ("id", "note", "labels", "auto_accept", "uses_left", "created_at", "expires_at", "created_by")
    return {field: getattr(row, field) for field in fields}


@router.get("/enroll-tokens")
def list_enroll_tokens(server: Server, _who: Operator) -> dict[str, Any]:
    """List enrolment tokens that still admit devices."""
    with server.database.reading() as session:
        rows = session.scalars(
            select(EnrollToken).where(EnrollToken.uses_left > 0, EnrollToken.expires_at > time.time())
        )
        return page([_enroll_token(row) for row in rows], None)


@router.delete("/enroll-tokens/{token_id}", status_code=204)
def delete_enroll_token(server: Server, who: Operator, token_id: int) -> None:
    """Revoke a token; devices that enrolled with it stay."""
    with server.database.writing() as session:
        revoke_enroll_token(session, who.name, token_id)
