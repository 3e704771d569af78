"""The server process: listens, mounts API and dashboard on one application, and runs until a signal."""

from __future__ import annotations

import json
import logging
import os
import signal
import socket
import ssl
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import uvicorn

from edgec.fleet.access.tokens import ensure_admin
from edgec.fleet.api.app import create_app
from edgec.fleet.api.sendfile import SendfileProtocol
from edgec.fleet.broker.embedded import Tls, port_taken
from edgec.fleet.certificates.service import FOLDER, Certificates
from edgec.fleet.client.authority import fingerprint
from edgec.fleet.dashboard.mount import mount
from edgec.fleet.errors import FleetError, PortTaken
from edgec.fleet.maintenance import mend_files
from edgec.fleet.settings import Settings
from edgec.fleet.startup import prepare_tls, start_services
from edgec.fleet.store.database import Database
from edgec.fleet.store.files import own_folder

if TYPE_CHECKING:
    from fastapi import FastAPI

log = logging.getLogger(__name__)


def _listen(settings: Settings) -> socket.socket:
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    listener = socket.socket(family)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((settings.host, settings.port))
        listener.listen(2048)
    except OSError as error:
        listener.close()
        raise PortTaken(port_taken(settings.host, settings.port, "--port", error)) from error
    return listener


def _lock(data: Path, stack: ExitStack) -> None:
    """Lock the data folder: two servers would both own its SQLite database and its admin token."""
    import fcntl

    stream = stack.enter_context((data / "lock").open("w"))
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise FleetError(
            f"another fleet server uses the folder {data}: stop it, or give another with --data"
        ) from error


class _Server(uvicorn.Server):
    """Reports when it is ready; leaves signals to the caller."""

    def __init__(self, config: uvicorn.Config, on_ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._on_ready = on_ready

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Stop on SIGINT and SIGTERM; unlike uvicorn's own method, without re-raising them before our parts are
        stopped."""
        before = {
            number: signal.signal(number, self.handle_exit) for number in (signal.SIGINT, signal.SIGTERM)
        }
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start, then report readiness."""
        await super().startup(sockets=sockets)
        if self.started:
            self._on_ready()


def serve(
    settings: Settings, on_ready: Callable[[dict[str, Any]], None], ready_file: Path | None = None
) -> None:
    """Run until SIGINT or SIGTERM. Once everything answers, `on_ready` is called with the addresses, and they are
    written to `ready_file`.

    Raises:
        FleetError: a port is taken, the data folder is in use or cannot be written, the database or broker is
        unreachable.
    """
    # Database, blobs and keys are this user's alone; what the broker reads gets its modes explicitly.
    os.umask(0o077)
    own_folder(settings.data)
    with ExitStack() as stack:
        if settings.database is None:
            _lock(settings.data, stack)
        listener = stack.enter_context(_listen(settings))
        port = listener.getsockname()[1]
        seen = socket.getfqdn() if settings.host in ("0.0.0.0", "::") else settings.host
        scheme = "https" if settings.tls or settings.tls_certificate else "http"
        url = settings.public_url or f"{scheme}://{f'[{seen}]' if ':' in seen else seen}:{port}"
        database = Database(settings.database_url)
        stack.callback(database.close)
        database.migrate()
        mend_files(settings.data)
        certificates = Certificates(database, settings.data / FOLDER, settings.certificate_valid_s)
        host = urlsplit(url).hostname or seen
        tls = prepare_tls(settings, certificates, [host, seen, "localhost", "127.0.0.1", "::1"])
        services = start_services(settings, url.rstrip("/"), stack, certificates, tls)
        admin_file, new_admin = ensure_admin(services.database, settings.data)
        app = create_app(services)
        mount(app, services)
        info = {
            "url": services.url,
            "port": port,
            "mqtt_host": services.mqtt_access.host,
            "mqtt_port": services.mqtt_access.port,
            "fleet": settings.fleet,
            "data": str(settings.data),
            "admin_token_file": str(admin_file),
            "new_admin": new_admin,
            "authority": fingerprint(certificates.ca_pem) if tls and certificates.ca_pem else None,
            "pid": os.getpid(),
        }

        def ready() -> None:
            if ready_file is not None:
                _write_ready(ready_file, info)
                stack.callback(ready_file.unlink, missing_ok=True)
            on_ready(info)

        server = _Server(_web(app, tls, settings.trusted_proxies), ready)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        server.run(sockets=[listener])
        services.workers.check()


def _web(app: FastAPI, tls: Tls | None, trusted_proxies: str) -> uvicorn.Config:
    return uvicorn.Config(
        app, log_level="warning", access_log=False, timeout_graceful_shutdown=5, lifespan="on",
        forwarded_allow_ips=trusted_proxies, timeout_keep_alive=30, ws_max_size=1 << 20, http=SendfileProtocol,
        ssl_certfile=tls.certificate if tls else None, ssl_keyfile=tls.key if tls else None,
        ssl_ca_certs=str(tls.client_ca) if tls and tls.client_ca else None,
        ssl_cert_reqs=ssl.CERT_OPTIONAL if tls and tls.client_ca else ssl.CERT_NONE,
    )  # fmt: skip


def _write_ready(path: Path, info: dict[str, Any]) -> None:
    partial = path.with_name(path.name + ".partial")
    partial.write_text(json.dumps(info) + "\n")
    partial.replace(path)
