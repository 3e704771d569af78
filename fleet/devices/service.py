"""Devices: look-up and admission."""

from __future__ import annotations

from sqlalchemy import select
from sqlalchemy.orm import Session

from edgec.fleet.audit.log import audit
from edgec.fleet.certificates.service import revoke_device
from edgec.fleet.problems import not_found
from edgec.fleet.store.tables import Device


def get_device(session: Session, name: str) -> Device:
    """The device.

    Raises:
        Problem: 404.
    """
    device = session.scalar(select(Device).filter_by(name=name))
    if device is None:
        raise not_found("device", name)
    return device


def set_admission(session: Session, actor: str, name: str, admission: str) -> Device:
    """Accept or revoke a device.

    Raises:
        Problem: 404.
    """
    device = get_device(session, name)
    device.admission = admission
    if admission == "revoked":
        revoke_device(session, device.id)
    audit(session, actor, f"device.{admission}", name)
    return device
