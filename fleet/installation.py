"""`edgec fleet setup`: everything that a fleet on one machine needs before its first start, in one folder.

PostgreSQL, Mosquitto with TLS, a bucket and any number of server processes, all run by one system user: broker and
servers share files without group permissions, and the servers may tell the broker to reload them.
"""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from sqlalchemy import create_engine, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, OperationalError

from edgec.fleet.access.secrets import new_secret
from edgec.fleet.broker.first_files import issue_server, write_first
from edgec.fleet.certificates.authority import Authority
from edgec.fleet.certificates.service import FOLDER
from edgec.fleet.errors import FleetError
from edgec.fleet.settings import PREFIX, Settings, read_settings_file
from edgec.fleet.store.files import own_folder, replace_file

SETTINGS_FILE = "fleet.env"
BROKER_USER = "edgec-fleet"
AUTHORITY_DAYS = 3650
CREDENTIALS = (
    "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_DEFAULT_REGION", "AWS_REGION",
)  # fmt: skip
_HARDENING = """NoNewPrivileges=yes
ProtectSystem=strict
ProtectHome=yes
PrivateTmp=yes
PrivateDevices=yes
ProtectKernelTunables=yes
ProtectKernelModules=yes
ProtectControlGroups=yes
ProtectClock=yes
RestrictSUIDSGID=yes
LockPersonality=yes
CapabilityBoundingSet=
"""


@dataclass(frozen=True, slots=True)
class Installation:
    """What to set up.

    Attributes:
        folder: for data, broker and settings; absolute.
        hosts: names of this machine, the one that devices use first.
        database: URL of a PostgreSQL database, which is created if it is not there.
        blobs: `s3://bucket/prefix`; None for the data folder.
        s3_endpoint: address of the store, if not Amazon's.
        fleet: name of the fleet.
        ports: of the server processes.
        mqtt_port: of the broker for devices, with certificates.
        user_port: of the broker for users with passwords.
        server_port: of the broker for the server processes, on the loopback interface.
        user: the system user that runs everything; None for who runs this.
        units: folder for systemd's units.
    """

    folder: Path
    hosts: tuple[str, ...]
    database: str
    blobs: str | None
    s3_endpoint: str | None
    fleet: str
    ports: tuple[int, ...]
    mqtt_port: int
    user_port: int
    server_port: int
    user: str | None
    units: Path

    @property
    def data(self) -> Path:
        """The servers' data folder."""
        return self.folder / "data"

    @property
    def broker(self) -> Path:
        """The broker's folder."""
        return self.folder / "broker"

    @property
    def settings_file(self) -> Path:
        """The settings of all server processes."""
        return self.folder / SETTINGS_FILE

    @property
    def url(self) -> str:
        """Where devices and browsers reach the first server process."""
        return f"https://{self.hosts[0]}:{self.ports[0]}"


def set_up(wanted: Installation, environment: Mapping[str, str]) -> list[str]:
    """Make what is not there yet; running it again keeps keys, passwords and data, and writes settings and units anew.

    Args:
        wanted: what to set up.
        environment: variables, of which the store's credentials are kept in the settings.

    Returns:
        What was done, a line each.

    Raises:
        FleetError: something cannot be made; the message says what and why.
    """
    done: list[str] = []
    if wanted.user is not None:
        _check_program(wanted.user)
    if wanted.user is not None and _make_user(wanted.user, wanted.folder):
        done.append(f"system user {wanted.user}")
    own_folder(wanted.folder)
    for folder in (wanted.data, wanted.broker, wanted.broker / "tls"):
        own_folder(folder)
    authority = Authority.load(wanted.data / FOLDER)
    if authority is None:
        authority = Authority.create(wanted.data / FOLDER, f"edgec fleet {wanted.fleet}", AUTHORITY_DAYS)
        done.append(
            f"authority in {wanted.data / FOLDER}: people and devices trust {wanted.data / FOLDER / 'ca.pem'}"
        )
    password = _known_password(wanted) or new_secret("broker")
    hosts = list(dict.fromkeys([*wanted.hosts, "localhost", "127.0.0.1", "::1"]))
    issue_server(authority, hosts, wanted.broker / "tls")
    conf = write_first(
        wanted.broker, wanted.fleet, (BROKER_USER, password), port=wanted.mqtt_port,
        server_port=wanted.server_port, server_host="127.0.0.1", tls=wanted.broker / "tls", authority=authority,
        user_port=wanted.user_port, user=wanted.user,
    )  # fmt: skip
    done.append(f"broker's configuration in {conf}")
    replace_file(wanted.settings_file, _settings(wanted, password, environment).encode())
    done.append(f"settings in {wanted.settings_file}")
    if create_database(wanted.database, wanted.user):
        done.append(f"database {make_url(wanted.database).database}")
    done += [f"unit {path}" for path in _write_units(wanted, conf)]
    if wanted.user is not None and os.getuid() == 0:
        _give_to(wanted.user, wanted.folder)
    return done


def _check_program(user: str) -> None:
    """Refuse a Python that the system user could not run, such as one in root's home."""
    program = Path(sys.executable).resolve()
    own = os.getuid() == 0 and user != "root"
    if own and not all(path.stat().st_mode & 0o001 for path in (program, *program.parents)):
        raise FleetError(
            f"the user {user} cannot run {program}: install edgec where all may read it, such as /opt/edgec"
        )


def _known_password(wanted: Installation) -> str | None:
    """The broker's password for the servers from settings of before."""
    if not wanted.settings_file.exists():
        return None
    known = read_settings_file(wanted.settings_file).get(f"{PREFIX}MQTT", "")
    return urlsplit(known).password


def _settings(wanted: Installation, password: str, environment: Mapping[str, str]) -> str:
    values: dict[str, object] = {
        "data": wanted.data,
        "fleet": wanted.fleet,
        "host": "0.0.0.0",
        "tls": "true",
        "tls_names": ",".join(wanted.hosts),
        "public_url": wanted.url,
        "database": wanted.database,
        "blobs": wanted.blobs,
        "s3_endpoint": wanted.s3_endpoint,
        "mqtt": f"mqtt://{BROKER_USER}:{password}@127.0.0.1:{wanted.server_port}",
        "mqtt_public": f"{wanted.hosts[0]}:{wanted.mqtt_port}",
        "mqtt_public_tls": "true",
        "mqtt_files": wanted.broker,
        "mqtt_reload": f"pkill -HUP -F {wanted.broker / 'mosquitto.pid'}",
    }
    assert values.keys() <= Settings.model_fields.keys()
    lines = [f"{PREFIX}{name.upper()}={value}" for name, value in values.items() if value is not None]
    lines += [f"{name}={environment[name]}" for name in CREDENTIALS if wanted.blobs and environment.get(name)]
    head = "# Written by 'edgec fleet setup'. It contains passwords: only the fleet's user may read it."
    return "\n".join([head, *lines]) + "\n"


def _write_units(wanted: Installation, conf: Path) -> list[Path]:
    account = f"User={wanted.user}\n" if wanted.user is not None else ""
    mosquitto = shutil.which("mosquitto", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
    if mosquitto is None:
        raise FleetError("mosquitto is not installed: apt-get install mosquitto")
    serve = f"{sys.executable} -m edgec.cli.main fleet serve --settings {wanted.settings_file} --port %i"
    content = {
        "edgec-broker.service": f"""[Unit]
Description=MQTT broker of the edgec fleet
Wants=network-online.target
After=network-online.target

[Service]
ExecStart={mosquitto} -c {conf}
{account}Restart=always
RestartSec=2
UMask=0077
ReadWritePaths={wanted.broker}
{_HARDENING}
[Install]
WantedBy=multi-user.target
""",
        "edgec-fleet@.service": f"""# One process of the fleet server for each port: edgec-fleet@{wanted.ports[0]}.
[Unit]
Description=edgec fleet server on port %i
Wants=network-online.target edgec-broker.service
After=network-online.target edgec-broker.service postgresql.service

[Service]
ExecStart={serve}
{account}Restart=always
RestartSec=2
TimeoutStopSec=60
UMask=0077
ReadWritePaths={wanted.folder}
{_HARDENING}
[Install]
WantedBy=multi-user.target
""",
    }
    written = []
    try:
        wanted.units.mkdir(parents=True, exist_ok=True)
        for name, unit in content.items():
            replace_file(wanted.units / name, unit.encode(), mode=0o644)
            written.append(wanted.units / name)
    except OSError as error:
        raise FleetError(f"cannot write the units in {wanted.units}: {error.strerror}") from error
    return written


def create_database(url: str, role: str | None) -> bool:
    """Create a PostgreSQL database, and on this machine also the `role` that owns it; returns whether it was missing.

    Raises:
        FleetError: the server cannot be reached, or does not permit it.
    """
    try:
        target = make_url(url).set(drivername="postgresql+psycopg")
    except ArgumentError as error:
        raise FleetError(
            f"--database {url!r} is not a database URL: postgresql://user:password@host/name"
        ) from error
    name = target.database or ""
    if _answers(target.render_as_string(hide_password=False)):
        return False
    local = target.host is None and "host" not in target.query
    if local and role is not None and os.getuid() == 0:
        # The system user connects over the socket, and PostgreSQL knows it by its name.
        for tool, arguments in (("createuser", [role]), ("createdb", ["--owner", role, name])):
            ran = subprocess.run(
                ["runuser", "-u", "postgres", "--", tool, *arguments], capture_output=True, text=True, cwd="/"
            )
            if ran.returncode != 0 and "already exists" not in ran.stderr:
                raise FleetError(f"the database cannot be created: {ran.stderr.strip()}")
        return True
    engine = create_engine(target.set(database="postgres"), isolation_level="AUTOCOMMIT")
    try:
        with engine.connect() as connection:
            quoted = engine.dialect.identifier_preparer.quote_identifier(name)
            connection.execute(text(f"CREATE DATABASE {quoted}"))
    except OperationalError as error:
        shown = target.render_as_string(hide_password=True)
        raise FleetError(
            f"the database {shown} does not answer and cannot be created: {error.orig}"
        ) from error
    finally:
        engine.dispose()
    return True


def _answers(url: str) -> bool:
    engine = create_engine(url)
    try:
        engine.connect().close()
    except OperationalError:
        return False
    finally:
        engine.dispose()
    return True


def _make_user(name: str, home: Path) -> bool:
    try:
        pwd.getpwnam(name)
    except KeyError:
        pass
    else:
        return False
    if os.getuid() != 0:
        raise FleetError(f"there is no system user {name}: run this as root, or name yours with --user")
    command = ["useradd", "--system", "--home-dir", str(home), "--shell", "/usr/sbin/nologin", name]
    ran = subprocess.run(command, capture_output=True, text=True)
    if ran.returncode != 0:
        raise FleetError(f"the system user {name} cannot be created: {ran.stderr.strip()}")
    return True


def _give_to(user: str, folder: Path) -> None:
    for path in (folder, *folder.rglob("*")):
        shutil.chown(path, user, pwd.getpwnam(user).pw_gid)
