"""Enrolment of devices, by a one-time token or a claim certificate."""

from __future__ import annotations

import secrets
import time
from collections.abc import Mapping
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import select
from sqlalchemy.orm import Session

from edgec.fleet.access.secrets import new_secret, secret_hash
from edgec.fleet.audit.log import audit
from edgec.fleet.broker.passwords import hash_password
from edgec.fleet.problems import Problem
from edgec.fleet.store.tables import Device, EnrollToken, MqttUser
from edgec.protocol.enrol import EnrollRequest


class NewEnrollToken(BaseModel):
    """An enrolment token to issue."""

    model_config = ConfigDict(extra="forbid")
    uses: int = Field(default=1, ge=1, le=100_000)
    valid_s: float = Field(default=86400.0, gt=0, le=366 * 86400)
    labels: dict[
        Annotated[str, Field(min_length=1, max_length=63)], Annotated[str, Field(max_length=255)]
    ] = Field(default_factory=dict)
    auto_accept: bool | None = Field(
        default=None, description="Accept such devices at once; the server's setting if not given."
    )
    note: str = Field(default="", max_length=255)


def issue_enroll_token(
    session: Session, actor: str, wanted: NewEnrollToken, *, auto_accept: bool = True
) -> tuple[EnrollToken, str]:
    """Add a token that admits `wanted.uses` devices; the second value is the secret, shown once.

    `auto_accept` applies where `wanted` leaves it open.
    """
    secret = new_secret("enroll")
    row = EnrollToken(
        hash=secret_hash(secret), note=wanted.note, labels=dict(wanted.labels),
        auto_accept=auto_accept if wanted.auto_accept is None else wanted.auto_accept, uses_left=wanted.uses,
        expires_at=time.time() + wanted.valid_s, created_by=actor,
    )  # fmt: skip
    session.add(row)
    session.flush()
    audit(session, actor, "enroll-token.create", str(row.id), uses=wanted.uses)
    return row, secret


def revoke_enroll_token(session: Session, actor: str, token_id: int) -> None:
    """Revoke an enrolment token; devices that enrolled with it stay.

    Raises:
        Problem: 404.
    """
    row = session.get(EnrollToken, token_id) if 0 < token_id < 2**53 else None
    if row is None:
        raise Problem(404, "Token not found", f"There is no enrolment token {token_id}.")
    row.uses_left = 0
    audit(session, actor, "enroll-token.revoke", str(token_id))


def enroll(session: Session, request: EnrollRequest) -> tuple[Device, str, str]:
    """Enrol a device by token; returns its row, MQTT password and HTTP token (both shown once, to the device).

    Raises:
        Problem: 403 for a token that is unknown, spent or expired; 409 when the name belongs to another
        device.
    """
    token = session.scalar(select(EnrollToken).filter_by(hash=secret_hash(request.token)).with_for_update())
    if token is None or token.uses_left < 1 or token.expires_at < time.time():
        raise Problem(
            403, "Token refused", "The enrolment token is unknown, used up or expired. Ask for a new one."
        )
    token.uses_left -= 1
    return admit(session, request, by=f"token {token.id}", accept=token.auto_accept, labels=token.labels)


def admit(
    session: Session, request: EnrollRequest, *, by: str, accept: bool, labels: Mapping[str, str]
) -> tuple[Device, str, str]:
    """Add a device whose right to enrol has been checked; see `enroll`.

    Raises:
        Problem: 409 when the name belongs to another device.
    """
    name = request.device or f"device-{secrets.token_hex(4)}"
    if session.scalar(select(Device.id).filter_by(name=name)):
        raise Problem(
            409,
            "Name taken",
            f"A device called {name!r} is enrolled. Delete it first, or choose another name.",
        )
    if session.scalar(select(MqttUser.id).filter_by(name=name)):
        raise Problem(409, "Name taken", f"A user of the broker is called {name!r}; choose another name.")
    password, http_token = new_secret("mqtt"), new_secret("device")
    device = Device(
        name=name,
        admission="accepted" if accept else "pending",
        target=request.target[:64],
        agent_version=request.agent_version[:64],
        labels={**request.labels, **labels},
        password_hash=hash_password(password),
        token_hash=secret_hash(http_token),
    )
    session.add(device)
    session.flush()
    audit(session, f"device {name}", "device.enroll", name, by=by, admission=device.admission)
    return device, password, http_token
