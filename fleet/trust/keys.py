"""Signing keys in files: made here, kept by the operator, never sent to the server."""

from __future__ import annotations

import os
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from securesystemslib.signer import CryptoSigner

from edgec.fleet.errors import FleetError

PASSWORD_ENV = "EDGEC_KEY_PASSWORD"


def _password() -> bytes | None:
    value = os.environ.get(PASSWORD_ENV)
    return value.encode() if value else None


def new_key(path: Path) -> CryptoSigner:
    """Make an Ed25519 key in ``path``, readable by this user only, encrypted if ``EDGEC_KEY_PASSWORD`` is
    set.

    Raises:
        FleetError: the file exists; a key is never overwritten.
    """
    key = Ed25519PrivateKey.generate()
    password = _password()
    seal: KeySerializationEncryption = BestAvailableEncryption(password) if password else NoEncryption()
    content = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, seal)
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError as error:
        raise FleetError(f"{path} exists already: a signing key is never overwritten") from error
    with os.fdopen(descriptor, "wb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())
    return CryptoSigner(key)


def load_key(path: Path) -> CryptoSigner:
    """The key in ``path``.

    Raises:
        FleetError: it is not there, is no key, or wants another password.
    """
    try:
        key = load_pem_private_key(path.read_bytes(), _password())
    except FileNotFoundError as error:
        raise FleetError(f"there is no key {path}; make keys with 'edgec fleet keys init'") from error
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise FleetError(f"{path} cannot be read as a key ({error}); is {PASSWORD_ENV} right?") from error
    return CryptoSigner(key)


def load_role(folder: Path, role: str) -> list[CryptoSigner]:
    """Every key of a role in a folder: ``root-1.pem``, ``root-2.pem``, …

    Raises:
        FleetError: there is none.
    """
    paths = sorted(folder.glob(f"{role}-*.pem"))
    if not paths:
        raise FleetError(
            f"{folder} has no {role} key ({role}-*.pem); bring the medium that it is on, or give --keys"
        )
    return [load_key(path) for path in paths]


def next_key_path(folder: Path, role: str) -> Path:
    """A free file name for a further key of a role."""
    number = 1
    while (folder / f"{role}-{number}.pem").exists():
        number += 1
    return folder / f"{role}-{number}.pem"
