"""The parts of a running server, started in order and stopped in the reverse one."""

from __future__ import annotations

import json
import logging
import os
import signal
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import uvicorn
from sqlalchemy import select

from edgec.fleet.access.auth import Auth, ensure_admin, new_secret
from edgec.fleet.api.registry import Registry
from edgec.fleet.broker.access import SERVER, Access
from edgec.fleet.broker.embedded import EmbeddedBroker, Tls, taken
from edgec.fleet.broker.mosquitto import MosquittoFiles
from edgec.fleet.broker.mqtt_client import BrokerAddress, MqttLink
from edgec.fleet.broker.passwords import check_password, hash_password
from edgec.fleet.captures.service import Captures, Quota
from edgec.fleet.certificates.authority import CERTIFICATE, Authority
from edgec.fleet.certificates.service import FOLDER, Certificates
from edgec.fleet.devices.service import set_admission
from edgec.fleet.errors import FleetError, PortTaken
from edgec.fleet.experiments.engine import Experiments
from edgec.fleet.ingest.worker import Ingest
from edgec.fleet.jobs.service import notify
from edgec.fleet.maintenance import Upkeep
from edgec.fleet.registry.blobs import BlobStore
from edgec.fleet.registry.stores import open_stores
from edgec.fleet.rollouts.engine import Addresses, Engine
from edgec.fleet.settings import Settings
from edgec.fleet.store.database import Database
from edgec.fleet.store.tables import Device
from edgec.fleet.trust.repository import Repository
from edgec.protocol.enrol import MqttAccess

if TYPE_CHECKING:
    from fastapi import FastAPI

log = logging.getLogger(__name__)


class Workers:
    """The threads that do the server's work. One that dies takes the process with it: a server that looks alive and
    no longer ingests is worse than one that its supervisor starts again, and nothing that was confirmed is lost."""

    def __init__(self) -> None:
        self.failed: tuple[str, BaseException] | None = None

    def guarded(self, name: str, target: Callable[..., None], *args: object) -> None:
        """Run ``target``; what it raises ends the process."""
        try:
            target(*args)
        except BaseException as error:
            self.failed = self.failed or (name, error)
            log.critical("the worker %r died; the server stops", name, exc_info=True)
            os.kill(os.getpid(), signal.SIGTERM)

    def check(self) -> None:
        """After the server's end.

        Raises:
            FleetError: a worker died.
        """
        if self.failed is not None:
            name, error = self.failed
            raise FleetError(f"the server stopped because its worker {name!r} died: {error}") from error


@dataclass(slots=True)
class Services:
    """What the API and the dashboard work with."""

    settings: Settings
    database: Database
    auth: Auth
    certificates: Certificates
    blobs: BlobStore
    registry: Registry
    ingest: Ingest
    engine: Engine
    link: MqttLink
    upkeep: Upkeep
    trust: Repository
    captures: Captures
    experiments: Experiments
    broker: EmbeddedBroker | None
    url: str
    mqtt: MqttAccess
    started_at: float
    broker_files: MosquittoFiles | None = None
    threads: dict[str, threading.Thread] = field(default_factory=dict)
    workers: Workers = field(default_factory=Workers)

    def revoke_connections(self, device: str) -> None:
        """Drop a device's MQTT connections, where the broker is ours or reads our files."""
        if self.broker is not None:
            self.broker.disconnect(device)
        self.devices_changed()

    def admit(self, actor: str, name: str, admission: str) -> Device:
        """Accept a device or shut it out (``accepted``, ``revoked``), and see to it that the broker knows.

        Raises:
            Problem: 404.
        """
        with self.database.writing() as session:
            device = set_admission(session, actor, name, admission)
        if admission == "revoked":
            self.revoke_connections(name)
        else:
            self.devices_changed()
        return device

    def devices_changed(self) -> None:
        """Let a broker of the operator's know who may connect; returns when it does."""
        if self.broker_files is not None:
            self.broker_files.changed()


class _LatePublisher:
    """Stands for the link in parts that are built before it."""

    def __init__(self) -> None:
        self.link: MqttLink | None = None

    def publish(self, topic: str, payload: bytes, *, retain: bool = False) -> None:
        """Send through the link, once there is one."""
        if self.link is not None:
            self.link.publish(topic, payload, retain=retain)


def _access(settings: Settings, database: Database, server_hash: str, certificates: Certificates) -> Access:
    def password_hash(name: str) -> str | None:
        with database.reading() as session:
            return session.scalar(select(Device.password_hash).filter_by(name=name, admission="accepted"))

    def certificate(serial: str, name: str) -> bool:
        return certificates.good(serial, name) is not None

    return Access(settings.fleet, server_hash, password_hash, check_password, certificate)


def prepare_tls(settings: Settings, certificates: Certificates, hosts: list[str]) -> Tls | None:
    """The files to serve TLS with: those of the settings, else of the fleet's own authority, made if there is
    none.

    Raises:
        FleetError: only one of certificate and key is given.
    """
    client_ca = settings.data / FOLDER / CERTIFICATE
    if settings.tls_certificate or settings.tls_key:
        if not (settings.tls_certificate and settings.tls_key):
            raise FleetError("--tls-certificate and --tls-key go together")
        ca = client_ca if certificates.authority else None
        return Tls(settings.tls_certificate, settings.tls_key, ca)
    if not settings.tls:
        return None
    if certificates.authority is None:
        Authority.create(settings.data / FOLDER, f"edgec fleet {settings.fleet}", 3650)
        certificates.reload()
    names = list(dict.fromkeys([*hosts, *(n.strip() for n in settings.tls_names.split(",") if n.strip())]))
    certificate, key = certificates.for_server(names, timedelta(days=825))
    return Tls(certificate, key, client_ca)


def _thread(
    stack: ExitStack, workers: Workers, name: str, target: Callable[..., None], stop: Callable[[], None],
    *args: object,
) -> threading.Thread:  # fmt: skip
    thread = threading.Thread(target=workers.guarded, args=(name, target, *args), name=name, daemon=True)
    thread.start()

    def end() -> None:
        stop()
        thread.join(30)

    stack.callback(end)
    return thread


def start_services(
    settings: Settings,
    url: str,
    stack: ExitStack,
    certificates: Certificates,
    tls: Tls | None,
) -> Services:
    """Start database, broker, link, ingest, engine and upkeep; ``stack`` stops them.

    Raises:
        FleetError: one of them cannot be had; the message says which and why.
    """
    database = certificates.database
    blobs, pictures = open_stores(settings)
    publisher = _LatePublisher()
    workers = Workers()
    trust = Repository(settings.data / "tuf")
    engine = Engine(database, publisher, Addresses(settings.fleet, url, trust))
    ingest = Ingest(database, publisher, settings.fleet, engine.wake)
    broker, address, mqtt = _broker(settings, certificates, ingest, stack, tls)
    client_id = f"{address.username or SERVER}:{settings.fleet}"
    if settings.mqtt_shared:
        # The same after a restart: what the broker kept for this process is for it alone.
        client_id += f":{socket.gethostname()}-{settings.port or os.getpid()}"
    link = MqttLink(address, settings.fleet, client_id, ingest.offer, settings.mqtt_shared, workers.guarded)
    stopped = threading.Event()
    upkeep = Upkeep(database, blobs, settings, trust)
    quota = Quota(settings.captures_quota, settings.captures_device_quota)
    captures = Captures(database, pictures, quota)
    captures.sweep(time.time())
    experiments = Experiments(database, publisher, Addresses(settings.fleet, url, trust))
    services = Services(
        settings, database, Auth(database, certificates), certificates, blobs,
        Registry(database, blobs, settings.max_upload), ingest, engine,
        link, upkeep, trust, captures, experiments, broker, url, mqtt, time.time(), workers=workers,
    )  # fmt: skip

    def end_ingest() -> None:
        stopped.set()
        ingest.stop()

    services.broker_files = _broker_files(settings, certificates, address, stack, services)
    services.threads["ingest"] = _thread(stack, workers, "ingest", ingest.run, end_ingest, stopped)
    publisher.link = link
    stack.callback(link.stop)
    link.start(on_connect=lambda: _send_again(database, publisher, settings.fleet))
    services.threads["rollouts"] = _thread(
        stack, workers, "rollouts", engine.run, engine.stop, settings.tick_s
    )
    services.threads["experiments"] = _thread(
        stack, workers, "experiments", experiments.run, experiments.stop, 2 * settings.tick_s
    )
    services.threads["upkeep"] = _thread(stack, workers, "upkeep", upkeep.run, upkeep.stop)
    return services


def _broker_files(
    settings: Settings,
    certificates: Certificates,
    address: BrokerAddress,
    stack: ExitStack,
    services: Services,
) -> MosquittoFiles | None:
    if settings.mqtt is None or settings.mqtt_files is None:
        return None
    database = certificates.database
    login = (address.username, address.password)
    files = MosquittoFiles(
        database, settings.mqtt_files, settings.fleet, login, settings.mqtt_reload, certificates
    )
    files.write()
    services.threads["broker files"] = _thread(stack, services.workers, "broker-files", files.run, files.stop)
    return files


def _send_again(database: Database, publisher: _LatePublisher, fleet: str) -> None:
    """The broker may have forgotten what it retained, or a crash came between commit and publish."""
    threading.Thread(target=notify, args=(database, publisher, fleet), name="send-again", daemon=True).start()


def _broker(
    settings: Settings, certificates: Certificates, ingest: Ingest, stack: ExitStack, tls: Tls | None
) -> tuple[EmbeddedBroker | None, BrokerAddress, MqttAccess]:
    if settings.mqtt is not None:
        address = BrokerAddress.from_url(settings.mqtt)
        public = settings.mqtt_public or f"{address.host}:{address.port}"
        host, _, port = public.rpartition(":")
        secured = address.tls or settings.mqtt_public_tls
        return (
            None,
            address,
            MqttAccess(
                host=host, port=int(port), tls=secured, ca_pem=certificates.ca_pem if secured else None
            ),
        )
    password = new_secret("server")
    access = _access(settings, certificates.database, hash_password(password), certificates)
    listen = settings.mqtt_host or settings.host
    broker = EmbeddedBroker(listen, settings.mqtt_port, access, ingest.offer, tls)
    broker.start()
    stack.callback(broker.stop)
    local = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(listen, listen)
    ca = certificates.ca_pem if tls is not None else None
    if settings.mqtt_public:
        host, _, port = settings.mqtt_public.rpartition(":")
        public_access = MqttAccess(host=host, port=int(port), tls=tls is not None, ca_pem=ca)
    else:
        seen = socket.getfqdn() if listen in ("0.0.0.0", "::") else listen
        public_access = MqttAccess(host=seen, port=broker.port, tls=tls is not None, ca_pem=ca)
    own = BrokerAddress(
        local, broker.port, SERVER, password, tls is not None, pinned=tls.certificate if tls else None
    )
    return broker, own, public_access


def _listen(settings: Settings) -> socket.socket:
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    listener = socket.socket(family)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((settings.host, settings.port))
        listener.listen(2048)
    except OSError as error:
        listener.close()
        raise PortTaken(taken(settings.host, settings.port, "--port", error)) from error
    return listener


def _lock(data: Path, stack: ExitStack) -> None:
    """One server a data folder: two would both own its SQLite rollouts and its admin token."""
    import fcntl

    stream = stack.enter_context((data / "lock").open("w"))
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise FleetError(
            f"another fleet server uses the folder {data}: stop it, or give another with --data"
        ) from error


class _Server(uvicorn.Server):
    """Says when it is ready; lets the caller handle signals."""

    def __init__(self, config: uvicorn.Config, on_ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._on_ready = on_ready

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Stop on SIGINT and SIGTERM; unlike uvicorn's own, without dying of them before our parts are
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
        """Start, then report."""
        await super().startup(sockets=sockets)
        if self.started:
            self._on_ready()


def serve(
    settings: Settings, on_ready: Callable[[dict[str, Any]], None], ready_file: Path | None = None
) -> None:
    """Run until SIGINT or SIGTERM. ``on_ready`` gets the addresses; so does ``ready_file``, written when
    all answers.

    Raises:
        FleetError: a port is taken, the data folder is in use or cannot be written, the database or broker
        is away.
    """
    from edgec.fleet.api.app import create_app

    try:
        settings.data.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FleetError(f"cannot use the data folder {settings.data}: {error.strerror}") from error
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
        certificates = Certificates(database, settings.data / FOLDER, settings.certificate_valid_s)
        host = urlsplit(url).hostname or seen
        tls = prepare_tls(settings, certificates, [host, seen, "localhost", "127.0.0.1", "::1"])
        services = start_services(settings, url.rstrip("/"), stack, certificates, tls)
        admin_file, new_admin = ensure_admin(services.database, settings.data)
        app = create_app(services)
        info = {
            "url": services.url,
            "port": port,
            "mqtt_host": services.mqtt.host,
            "mqtt_port": services.mqtt.port,
            "fleet": settings.fleet,
            "data": str(settings.data),
            "admin_token_file": str(admin_file),
            "new_admin": new_admin,
            "pid": os.getpid(),
        }

        def ready() -> None:
            if ready_file is not None:
                _write_ready(ready_file, info)
                stack.callback(ready_file.unlink, missing_ok=True)
            on_ready(info)

        server = _Server(_web(app, tls), ready)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        server.run(sockets=[listener])
        services.workers.check()


def _web(app: FastAPI, tls: Tls | None) -> uvicorn.Config:
    from edgec.fleet.api.sendfile import SendfileProtocol

    return uvicorn.Config(
        app, log_level="warning", access_log=False, timeout_graceful_shutdown=5, lifespan="on",
        forwarded_allow_ips="127.0.0.1", timeout_keep_alive=30, ws_max_size=1 << 20, http=SendfileProtocol,
        ssl_certfile=tls.certificate if tls else None, ssl_keyfile=tls.key if tls else None,
        ssl_ca_certs=str(tls.client_ca) if tls and tls.client_ca else None,
        ssl_cert_reqs=ssl.CERT_OPTIONAL if tls and tls.client_ca else ssl.CERT_NONE,
    )  # fmt: skip


def _write_ready(path: Path, info: dict[str, Any]) -> None:
    partial = path.with_name(path.name + ".partial")
    partial.write_text(json.dumps(info) + "\n")
    partial.replace(path)
