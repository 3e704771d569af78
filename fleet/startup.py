"""Starts the parts of a server in order; an `ExitStack` stops them in reverse."""

from __future__ import annotations

import secrets
import socket
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from datetime import timedelta

from sqlalchemy import select

from edgec.fleet.access.auth import Auth
from edgec.fleet.access.limits import Lockout
from edgec.fleet.access.oidc import Provider, ProviderSettings, parse_roles
from edgec.fleet.access.secrets import new_secret
from edgec.fleet.access.sessions import SessionRules
from edgec.fleet.broker.access import SERVER, Access
from edgec.fleet.broker.embedded import EmbeddedBroker, Tls
from edgec.fleet.broker.mosquitto import MosquittoFiles
from edgec.fleet.broker.mqtt_client import BrokerAddress, MqttClient, SessionSpec
from edgec.fleet.broker.passwords import check_password, hash_password
from edgec.fleet.broker.users import MqttUsers
from edgec.fleet.captures.service import Captures, Quota
from edgec.fleet.certificates.authority import CERTIFICATE, Authority
from edgec.fleet.certificates.service import FOLDER, Certificates
from edgec.fleet.devices.silence import SilenceWatch
from edgec.fleet.errors import FleetError
from edgec.fleet.experiments.engine import ExperimentEngine
from edgec.fleet.ingest.sessions import IngestSessions, filters_of, session_names
from edgec.fleet.ingest.worker import BATCH, Ingest
from edgec.fleet.jobs.service import notify
from edgec.fleet.maintenance import Maintenance
from edgec.fleet.registry.stores import open_stores
from edgec.fleet.rollouts.dispatch import Addresses
from edgec.fleet.rollouts.engine import RolloutEngine
from edgec.fleet.services import Services
from edgec.fleet.settings import Settings
from edgec.fleet.store.database import Database
from edgec.fleet.store.tables import Device
from edgec.fleet.trust.repository import Repository
from edgec.fleet.workers import Workers
from edgec.protocol.enrol import MqttAccess


class _LatePublisher:
    """Stands in for the MQTT client in parts that are built before it."""

    def __init__(self) -> None:
        self.client: MqttClient | None = None

    def publish(self, topic: str, payload: bytes, *, retain: bool = False) -> None:
        """Send through the client, once there is one."""
        if self.client is not None:
            self.client.publish(topic, payload, retain=retain)


def _access(settings: Settings, users: MqttUsers, server_hash: str, certificates: Certificates) -> Access:
    database = certificates.database

    def password_hash(name: str) -> str | None:
        with database.reading() as session:
            return session.scalar(select(Device.password_hash).filter_by(name=name, admission="accepted"))

    def certificate(serial: str, name: str) -> bool:
        return certificates.find_device(serial, name) is not None

    return Access(
        settings.fleet,
        server_hash,
        password_hash,
        check_password,
        certificate,
        users.rights,
        settings.discovery_prefix,
    )


def prepare_tls(settings: Settings, certificates: Certificates, hosts: list[str]) -> Tls | None:
    """The files to serve TLS with: those of the settings, else issued by the fleet's own authority, which is created
    if there is none.

    Raises:
        FleetError: only one of certificate and key is given.
    """
    client_ca = settings.data / FOLDER / CERTIFICATE
    if settings.tls_certificate or settings.tls_key:
        if not (settings.tls_certificate and settings.tls_key):
            raise FleetError("--tls-certificate and --tls-key must be given together")
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


def start_services(
    settings: Settings,
    url: str,
    stack: ExitStack,
    certificates: Certificates,
    tls: Tls | None,
) -> Services:
    """Start broker, ingest, MQTT client, engines and maintenance; `stack` stops them.

    Raises:
        FleetError: one of them cannot be started; the message says which and why.
    """
    database = certificates.database
    blobs, pictures = open_stores(settings)
    publisher = _LatePublisher()
    workers = Workers()
    trust = Repository(settings.data / "tuf")
    addresses = Addresses(settings.fleet, url, trust)
    rollouts = RolloutEngine(database, publisher, addresses)
    ingest = Ingest(database, publisher, settings.fleet, rollouts.wake)
    users = MqttUsers(database)
    broker, address, mqtt_access = _broker(settings, certificates, users, ingest, stack, tls)
    client = _mqtt_client(settings, address, ingest, workers)
    captures = Captures(database, pictures, Quota(settings.captures_quota, settings.captures_device_quota))
    captures.sweep(time.time())
    auth = _auth(settings, certificates)
    services = Services(
        settings=settings,
        database=database,
        auth=auth,
        oidc=_oidc(settings, database, url),
        certificates=certificates,
        blobs=blobs,
        ingest=ingest,
        rollouts=rollouts,
        experiments=ExperimentEngine(database, publisher, addresses),
        captures=captures,
        maintenance=Maintenance(database, blobs, settings, trust, auth),
        trust=trust,
        mqtt_client=client,
        sessions=_ingest_sessions(settings, address, database, ingest, workers),
        mqtt_access=mqtt_access,
        broker=broker,
        mqtt_users=users,
        broker_files=_broker_files(settings, certificates, address),
        url=url,
        started_at=time.time(),
        workers=workers,
    )
    publisher.client = client
    legacy = _legacy_session(settings, address)
    _start(services, stack, lambda: _send_again(database, publisher, settings.fleet), legacy)
    return services


def _auth(settings: Settings, certificates: Certificates) -> Auth:
    rules = SessionRules(settings.session_idle_s, settings.session_s, settings.confirmed_s)
    lockout = Lockout(settings.lockout_failures, settings.lockout_window_s, settings.lockout_s)
    return Auth(certificates.database, certificates, rules, lockout)


def _oidc(settings: Settings, database: Database, url: str) -> Provider | None:
    if settings.oidc_issuer is None:
        return None
    if not settings.oidc_client_id or not settings.oidc_roles:
        raise FleetError(
            "EDGEC_FLEET_OIDC_ISSUER also needs EDGEC_FLEET_OIDC_CLIENT_ID and EDGEC_FLEET_OIDC_ROLES"
        )
    chosen = ProviderSettings(
        settings.oidc_issuer, settings.oidc_client_id, settings.oidc_client_secret, parse_roles(settings.oidc_roles),
        settings.oidc_groups_claim, settings.oidc_scopes,
    )  # fmt: skip
    return Provider(database, chosen, f"{url}/api/v1/oidc/callback")


def _mqtt_client(settings: Settings, address: BrokerAddress, ingest: Ingest, workers: Workers) -> MqttClient:
    """The connection that publishes; with the embedded broker it also receives what does not reach the ingest
    directly."""
    name = f"{address.username or SERVER}:{settings.fleet}"
    if settings.mqtt is None:
        spec = SessionSpec(name, filters_of(settings.fleet, ""))
    else:
        spec = SessionSpec(f"{name}:out-{secrets.token_hex(6)}", lasting=False)
    return MqttClient(address, spec, ingest.offer, guarded=workers.guarded)


def _ingest_sessions(
    settings: Settings, address: BrokerAddress, database: Database, ingest: Ingest, workers: Workers
) -> IngestSessions | None:
    if settings.mqtt is None:
        return None
    group = settings.mqtt_shared or ""
    names = session_names(address.username or SERVER, settings.fleet, group, settings.mqtt_sessions)
    return IngestSessions(database, address, settings.fleet, group, names, ingest.offer, workers.guarded)


def _legacy_session(settings: Settings, address: BrokerAddress) -> str:
    """The client id that earlier versions used: the broker may still hold messages for it."""
    if not settings.mqtt_shared:
        return ""
    name = f"{address.username or SERVER}:{settings.fleet}"
    return f"{name}:{socket.gethostname()}-{settings.port}" if settings.port else ""


def _start(services: Services, stack: ExitStack, on_connect: Callable[[], None], legacy: str) -> None:
    """Start the threads: first those that the broker's messages need, then the client that receives them."""
    workers, pace_s = services.workers, services.settings.tick_s
    stopped = threading.Event()

    def end_ingest() -> None:
        stopped.set()
        services.ingest.stop()

    if (files := services.broker_files) is not None:
        workers.start(stack, "broker files", files.run, files.stop)
    workers.start(stack, "ingest", services.ingest.run, end_ingest, stopped)
    stack.callback(services.mqtt_client.stop)
    services.mqtt_client.start(on_connect)
    if (sessions := services.sessions) is not None:
        sessions.first(legacy)
        workers.start(stack, "broker sessions", sessions.run, sessions.stop)
    workers.start(stack, "rollouts", services.rollouts.run, services.rollouts.stop, pace_s)
    workers.start(stack, "experiments", services.experiments.run, services.experiments.stop, 2 * pace_s)
    silence = SilenceWatch(
        services.database, lambda: services.mqtt_client.connected and services.ingest.depth < BATCH
    )
    workers.start(stack, "silence", silence.run, silence.stop)
    workers.start(stack, "maintenance", services.maintenance.run, services.maintenance.stop)


def _broker_files(
    settings: Settings, certificates: Certificates, address: BrokerAddress
) -> MosquittoFiles | None:
    if settings.mqtt is None or settings.mqtt_files is None:
        return None
    database = certificates.database
    login = (address.username, address.password)
    files = MosquittoFiles(
        database,
        settings.mqtt_files,
        settings.fleet,
        login,
        settings.mqtt_reload,
        certificates,
        settings.discovery_prefix,
    )
    files.write()
    return files


def _send_again(database: Database, publisher: _LatePublisher, fleet: str) -> None:
    """Publish all pending jobs again: the broker may have lost retained messages, or a crash came between commit
    and publish."""
    threading.Thread(target=notify, args=(database, publisher, fleet), name="send-again", daemon=True).start()


def _broker(
    settings: Settings,
    certificates: Certificates,
    users: MqttUsers,
    ingest: Ingest,
    stack: ExitStack,
    tls: Tls | None,
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
    access = _access(settings, users, hash_password(password), certificates)
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
