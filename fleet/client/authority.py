"""Which authority vouches for a fleet server: one that this machine knows anyway, a given file, or the one that
`edgec fleet login` kept."""

from __future__ import annotations

import hashlib
import os
import ssl
from pathlib import Path

import httpx

from edgec.fleet.errors import FleetError, ServerUnreachable

CA_ENV = "EDGEC_CA"
_given: list[Path] = []


def give(path: Path | None) -> None:
    """Use the authority in a file for this process, as the option `--ca` says."""
    _given[:] = [path] if path is not None else []


def authority_for(saved: str | None) -> str | None:
    """The authority (PEM) from `--ca`, else the environment, else what was saved at login; None for those that this
    machine knows.

    Raises:
        FleetError: the file cannot be read, or is no certificate.
    """
    path = _given[0] if _given else Path(os.environ[CA_ENV]) if os.environ.get(CA_ENV) else None
    if path is None:
        return saved
    try:
        pem = path.read_text()
        ssl.create_default_context(cadata=pem)
    except OSError as error:
        raise FleetError(f"--ca {path}: {error.strerror}") from error
    except (ssl.SSLError, ValueError) as error:
        raise FleetError(f"--ca {path}: not a certificate (PEM)") from error
    return pem


def trusting(pem: str | None) -> ssl.SSLContext:
    """What connections verify a server with: the authorities that this machine knows and, if given, this one."""
    context = ssl.create_default_context()
    if pem is not None:
        context.load_verify_locations(cadata=pem)
    return context


def fingerprint(pem: str) -> str:
    """The SHA-256 fingerprint of a certificate, as `SHA256:ab:cd:…`."""
    digest = hashlib.sha256(ssl.PEM_cert_to_DER_cert(pem.strip())).hexdigest()
    return "SHA256:" + ":".join(digest[at : at + 2] for at in range(0, len(digest), 2))


def shown_by(server: str) -> str:
    """The authority (PEM) that a fleet server says is its own. Nothing vouches for it: a person compares its
    fingerprint with the one that the server printed when it started.

    Raises:
        ServerUnreachable: nothing answers.
        FleetError: the server has no authority of its own, or its certificate is not from this one.
    """
    try:
        answer = httpx.get(f"{server}/api/v1/ca/certificate", verify=False, timeout=30)
    except httpx.HTTPError as error:
        raise ServerUnreachable(f"no fleet server answers at {server} ({error})") from error
    if answer.status_code != 200:
        raise FleetError(
            f"{server} has no authority of its own: give the one that issued its certificate with --ca"
        )
    try:
        httpx.get(f"{server}/healthz", verify=trusting(answer.text), timeout=30)
    except (httpx.HTTPError, ssl.SSLError, ValueError) as error:
        raise FleetError(
            f"{server} shows a certificate that its own authority did not issue for this address ({error})"
        ) from error
    return answer.text
