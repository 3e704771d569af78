"""Signing keys in files: created and kept by the operator, never sent to the server."""

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
from securesystemslib.signer import CryptoSigner, Signer

from edgec.fleet.errors import FleetError
from edgec.fleet.trust.token import SUFFIX, import_key, load_token

PASSWORD_ENV = "EDGEC_KEY_PASSWORD"


def _password() -> bytes | None:
    value = os.environ.get(PASSWORD_ENV)
    return value.encode() if value else None


def new_key(path: Path) -> CryptoSigner:
    """Create an Ed25519 key in `path`, readable by this user only, encrypted if `EDGEC_KEY_PASSWORD` is set.

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
    """Load the key in `path`.

    Raises:
        FleetError: it does not exist, is not a key, or needs another password.
    """
    try:
        key = load_pem_private_key(path.read_bytes(), _password())
    except FileNotFoundError as error:
        raise FleetError(f"there is no key {path}; make keys with 'edgec fleet keys init'") from error
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise FleetError(f"{path} cannot be read as a key ({error}); is {PASSWORD_ENV} right?") from error
    return CryptoSigner(key)


def load_any(path: Path) -> Signer:
    """Load the key in a file, or the one on the token that the file names.

    Raises:
        FleetError: neither.
    """
    return load_token(path) if path.suffix == SUFFIX else load_key(path)


def role_paths(folder: Path, role: str) -> list[Path]:
    """The files of a role's keys, in files or on tokens."""
    return sorted([*folder.glob(f"{role}-*.pem"), *folder.glob(f"{role}-*{SUFFIX}")])


def load_role(folder: Path, role: str) -> list[Signer]:
    """Load every key of a role in a folder: `root-1.pem`, `root-2.token`, …

    Raises:
        FleetError: there is none.
    """
    paths = role_paths(folder, role)
    if not paths:
        raise FleetError(
            f"{folder} has no {role} key ({role}-*.pem, {role}-*{SUFFIX}); connect the medium that holds it, "
            "or give --keys"
        )
    return [load_any(path) for path in paths]


def add_key(folder: Path, role: str, uri: str | None = None) -> Signer:
    """Add a key to a role: a new one in a file, or the one that `uri` names on a token.

    Raises:
        FleetError: the token cannot be used.
    """
    number = 1
    while any((folder / f"{role}-{number}{suffix}").exists() for suffix in (".pem", SUFFIX, ".retired")):
        number += 1
    path = folder / f"{role}-{number}"
    return import_key(uri, path.with_suffix(SUFFIX)) if uri else new_key(path.with_suffix(".pem"))
