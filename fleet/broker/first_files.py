"""The files that Mosquitto needs before the fleet's server has ever run, so that neither waits for the other."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

from edgec.fleet.broker.mosquitto import (
    ACCESS,
    AUTHORITY,
    CONFIG,
    PASSWORDS,
    REVOKED,
    access_list,
    configuration,
)
from edgec.fleet.broker.passwords import hash_password
from edgec.fleet.certificates.authority import Authority
from edgec.fleet.certificates.service import LIST_VALID
from edgec.fleet.errors import FleetError
from edgec.fleet.store.files import replace_file

SERVER_VALID = timedelta(days=825)
READABLE = 0o640
"""Mosquitto may run as another user, who is in the folder's group."""


def write_first(
    folder: Path,
    fleet: str,
    login: tuple[str, str],
    *,
    port: int,
    server_port: int,
    server_host: str,
    tls: Path | None = None,
    authority: Authority | None = None,
    user_port: int | None = None,
    user: str | None = None,
) -> Path:
    """Write the configuration, and files that admit the fleet's own processes; existing files of the latter are kept.

    Args:
        folder: for the files; the server's setting `mqtt_files`.
        fleet: name of the fleet.
        login: user and password of the fleet's processes.
        port: for devices.
        server_port: for the fleet's processes, at `server_host`.
        server_host: address for them.
        tls: folder with server.pem and server.key, with which devices authenticate by certificate.
        authority: with `tls`, what issued the devices' certificates.
        user: system user that the broker switches to when root starts it; None for Mosquitto's own.
        user_port: with `tls`, the port of users that are no devices.

    Returns:
        The configuration's path.

    Raises:
        FleetError: there is no user and password, or the folder cannot be written.
    """
    name, password = login
    if not name or not password:
        raise FleetError("the broker's address needs a user and a password: mqtt://user:password@host:port")
    text = configuration(
        folder, port=port, server_port=server_port, server_host=server_host, tls=tls, user_port=user_port
    )
    if user is not None:
        text = f"user {user}\n{text}"
    content = {
        PASSWORDS: f"{name}:{hash_password(password)}\n".encode(),
        ACCESS: access_list(fleet, name).encode(),
    }
    if authority is not None:
        content[AUTHORITY] = authority.pem.encode()
        content[REVOKED] = authority.revocation_list([], LIST_VALID)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, data in content.items():
            if not (folder / name).exists():
                replace_file(folder / name, data, mode=READABLE)
        replace_file(folder / CONFIG, text.encode(), mode=READABLE, keep_owner=True)
    except OSError as error:
        raise FleetError(f"cannot write {folder}: {error.strerror}") from error
    return folder / CONFIG


def issue_server(
    authority: Authority, hosts: list[str], folder: Path, valid: timedelta = SERVER_VALID
) -> None:
    """Write a certificate for an external broker or proxy: server.pem, server.key and ca.pem.

    Raises:
        FleetError: the folder cannot be written.
    """
    issued, key = authority.server(hosts, valid)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        replace_file(folder / "server.key", key.encode())
        replace_file(folder / "server.pem", (issued.pem + authority.pem).encode(), mode=READABLE)
        replace_file(folder / AUTHORITY, authority.pem.encode(), mode=0o644)
    except OSError as error:
        raise FleetError(f"cannot write {folder}: {error.strerror}") from error
