"""Issue, renew and revoke certificates."""

from __future__ import annotations

import time
from datetime import timedelta
from pathlib import Path

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from edgec.fleet.audit.log import audit
from edgec.fleet.certificates.authority import Authority, Issued
from edgec.fleet.problems import Problem
from edgec.fleet.store.database import Database
from edgec.fleet.store.files import replace_file
from edgec.fleet.store.tables import Certificate, Device

FOLDER = "ca"
LIST_VALID = timedelta(days=7)
RENEW_LIST_S = 86400.0


class Certificates:
    """The authority, if the fleet has one, and the certificates it issued."""

    def __init__(self, database: Database, folder: Path, valid_s: float) -> None:
        self.database = database
        self._folder = folder
        self._valid = timedelta(seconds=valid_s)
        self.authority = Authority.load(folder)
        self._listed: tuple[list[tuple[str, float]], float, bytes] | None = None

    def reload(self) -> None:
        """Load the authority again, after it was created."""
        self.authority = Authority.load(self._folder)

    @property
    def ca_pem(self) -> str | None:
        """The authority's certificate as PEM; None without an authority."""
        return self.authority.pem if self.authority else None

    def require(self) -> Authority:
        """The authority.

        Raises:
            Problem: 409 when there is none.
        """
        if self.authority is None:
            raise Problem(409, "No authority", "This fleet has no certificates: run 'edgec fleet ca init'.")
        return self.authority

    def issue(self, session: Session, device: Device, request: str) -> str:
        """Issue a certificate for `device`; returns it as PEM.

        Raises:
            Problem: 409 without an authority; 422 for an invalid request.
        """
        issued = self.require().device(request, device.name, self._valid)
        record(session, issued, "device", device.name, device.id)
        audit(session, f"device {device.name}", "certificate.issue", issued.serial)
        return issued.pem

    def use_claim(self, session: Session, claim: str, signature: bytes, request: str) -> Certificate:
        """Count one use of a claim certificate.

        Raises:
            Problem: 403 when it is not this fleet's, used up, expired or revoked; 409 without an authority.
        """
        serial = self.require().check_claim(claim, signature, request)
        row = session.get(Certificate, serial, with_for_update=True)
        if row is None or row.kind != "claim" or row.revoked_at is not None or row.uses_left < 1:
            raise Problem(403, "Claim refused", "The claim certificate is revoked or used up.")
        row.uses_left -= 1
        return row

    def revoked_list(self) -> bytes | None:
        """The revocation list (PEM); None without an authority."""
        if self.authority is None:
            return None
        with self.database.reading() as session:
            rows = session.execute(
                select(Certificate.serial, Certificate.revoked_at)
                .where(Certificate.revoked_at.is_not(None), Certificate.not_after > time.time())
                .order_by(Certificate.serial)
            )
            revoked = [(serial, at or 0.0) for serial, at in rows]
        now = time.time()
        if self._listed is None or self._listed[0] != revoked or now > self._listed[1] + RENEW_LIST_S:
            made = self.authority.revocation_list(revoked, LIST_VALID)
            self._listed = (revoked, now, made)
        return self._listed[2]

    def find_device(self, serial: str, name: str) -> int | None:
        """The id of the accepted device that this certificate belongs to; None if it is revoked or expired."""
        with self.database.reading() as session:
            return session.scalar(
                select(Device.id)
                .join(Certificate, Certificate.device_id == Device.id)
                .where(
                    Certificate.serial == serial,
                    Certificate.kind == "device",
                    Certificate.revoked_at.is_(None),
                    Certificate.not_after > time.time(),
                    Device.name == name,
                    Device.admission == "accepted",
                )
            )

    def for_server(self, hosts: list[str], valid: timedelta) -> tuple[Path, Path]:
        """Issue a certificate for this server; returns the files of certificate and key, in the authority's folder.

        It is one file: of two processes that share the folder, neither finds the certificate of one and the key of the
        other.

        Raises:
            Problem: 409 without an authority.
        """
        issued, key = self.require().server(hosts, valid)
        path = self._folder / "server.pem"
        replace_file(path, (key + issued.pem + self.require().pem).encode())
        return path, path


def record(
    session: Session, issued: Issued, kind: str, name: str, device_id: int | None = None, uses: int = 0
) -> Certificate:
    """Record a certificate that was issued."""
    row = Certificate(
        serial=issued.serial, kind=kind, device_id=device_id, name=name, not_before=issued.not_before,
        not_after=issued.not_after, uses_left=uses,
    )  # fmt: skip
    session.add(row)
    return row


def revoke_device(session: Session, device_id: int) -> None:
    """Revoke every certificate of a device."""
    session.execute(
        update(Certificate)
        .where(Certificate.device_id == device_id, Certificate.revoked_at.is_(None))
        .values(revoked_at=time.time())
    )


def revoke_serial(session: Session, actor: str, serial: str) -> Certificate:
    """Revoke one certificate.

    Raises:
        Problem: 404.
    """
    row = session.get(Certificate, serial.lower()) if len(serial) <= 40 else None
    if row is None:
        raise Problem(404, "Certificate not found", f"No certificate has the serial number {serial[:40]!r}.")
    row.revoked_at = row.revoked_at or time.time()
    audit(session, actor, "certificate.revoke", serial)
    return row
