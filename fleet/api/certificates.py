"""Certificates under `/api/v1`: the authority's, revocations, renewal, claims."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from fastapi import APIRouter, Response
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import select

from edgec.fleet.api.context import Asking, Operator, Server, SureAdmin, page
from edgec.fleet.audit.log import audit
from edgec.fleet.certificates.service import record, revoke_serial
from edgec.fleet.problems import Problem
from edgec.fleet.store.tables import Certificate, Device

router = APIRouter(prefix="/api/v1", tags=["certificates"])


@router.get("/ca/certificate", response_class=Response)
def ca_certificate(server: Server) -> Response:
    """Download the authority's certificate (PEM), which devices and browsers have to trust."""
    pem = server.certificates.require().pem
    return Response(pem, media_type="application/x-pem-file")


@router.get("/ca/revoked", response_class=Response)
def ca_revoked(server: Server) -> Response:
    """Download the revocation list (PEM), for brokers and proxies that check certificates themselves."""
    server.certificates.require()
    return Response(server.certificates.revoked_list(), media_type="application/x-pem-file")


class Renewal(BaseModel):
    """A request (PKCS #10, PEM) for the next certificate of the requesting device."""

    model_config = ConfigDict(extra="forbid")
    csr: str = Field(min_length=1, max_length=8192)


@router.post("/certificates/renew")
def renew(server: Server, who: Asking, body: Renewal) -> dict[str, Any]:
    """Renew the certificate of a device that authenticates with its current one, or its token. The current one
    stays valid until it expires."""
    if who is None or who.device_id is None:
        raise Problem(401, "Sign in", "A device renews with its certificate or its token.")
    with server.database.writing() as session:
        device = session.get_one(Device, who.device_id)
        pem = server.certificates.issue(session, device, body.csr)
    return {"certificate": pem, "ca_pem": server.certificates.ca_pem}


class NewClaim(BaseModel):
    """A claim certificate to create: installed on many devices, each of which exchanges it for its own."""

    model_config = ConfigDict(extra="forbid")
    uses: int = Field(100, ge=1, le=1_000_000)
    valid_s: float = Field(365 * 86400.0, gt=0, le=3660 * 86400)
    auto_accept: bool = Field(False, description="Accept such devices at once, without a person's approval.")


@router.post("/certificates/claims", status_code=201)
def make_claim(server: Server, who: Operator, body: NewClaim) -> dict[str, Any]:
    """Create a claim certificate. Its key is in this response only."""
    issued, key = server.certificates.require().claim(timedelta(seconds=body.valid_s))
    with server.database.writing() as session:
        row = record(session, issued, "claim", who.name, uses=body.uses)
        row.auto_accept = body.auto_accept
        audit(session, who.name, "claim.create", issued.serial, uses=body.uses)
    return {
        "serial": issued.serial,
        "certificate": issued.pem,
        "key": key,
        "ca_pem": server.certificates.ca_pem,
    }


@router.get("/certificates")
def list_certificates(server: Server, _who: Operator, device: str = "") -> dict[str, Any]:
    """List issued certificates, of one device or the latest of all."""
    query = select(Certificate).order_by(Certificate.not_before.desc()).limit(1000)
    if device:
        query = query.where(Certificate.name == device, Certificate.kind == "device")
    fields = ("serial", "kind", "name", "not_before", "not_after", "uses_left", "revoked_at")
    with server.database.reading() as session:
        return page([{name: getattr(row, name) for name in fields} for row in session.scalars(query)], None)


@router.delete("/certificates/{serial}", status_code=204)
def revoke_certificate(server: Server, who: SureAdmin, serial: str) -> None:
    """Revoke one certificate at once."""
    with server.database.writing() as session:
        row = revoke_serial(session, who.name, serial)
        name = row.name if row.kind == "device" else ""
    if name:
        server.revoke_connections(name)
