"""Files that let Mosquitto check the fleet's devices itself: passwords, access list, revoked certificates.

They are rewritten when devices come and go, and a command that the operator configures (`EDGEC_FLEET_MQTT_RELOAD`)
makes the broker reload them: Mosquitto does so on SIGHUP, and disconnects clients that are no longer allowed. The
access list has one pattern per topic, whatever the number of devices.
"""

from __future__ import annotations

import logging
import shlex
import subprocess
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from sqlalchemy import select
from sqlalchemy.exc import OperationalError

from edgec.fleet.broker.access import Rights
from edgec.fleet.broker.passwords import check_password, hash_password
from edgec.fleet.certificates.service import Certificates
from edgec.fleet.errors import FleetError
from edgec.fleet.store.database import Database
from edgec.fleet.store.files import replace_file
from edgec.fleet.store.tables import Device, MqttUser
from edgec.protocol.topics import (
    DISCOVERY_PREFIX,
    FOR_OTHERS,
    FROM_DEVICE,
    PREFIX,
    TO_DEVICE,
    discovery_node,
)

PASSWORDS, ACCESS, REVOKED, CONFIG = "passwords", "access", "revoked.pem", "mosquitto.conf"
AUTHORITY, PID = "ca.pem", "mosquitto.pid"
RELOAD_S = 10.0
WAIT_S = 10.0
log = logging.getLogger(__name__)


def access_list(
    fleet: str,
    server: str,
    revoked: Sequence[str] = (),
    *,
    users: Mapping[str, Rights] = MappingProxyType({}),
    escaped: Sequence[str] = (),
    prefix: str = DISCOVERY_PREFIX,
) -> str:
    """Mosquitto's `acl_file`: full access for the fleet's processes, for a device only what is below its own name, and
    for other `users` what their rights say.

    `revoked` devices are listed by name: their certificates are refused only at the next connection, the access list
    silences them at once. `escaped` are devices whose node in Home Assistant's discovery is not simply their name.
    """
    base = f"{PREFIX}/{fleet}/%u"
    lines = [f"user {server}", f"topic readwrite {PREFIX}/{fleet}/#", ""]
    for name, rights in sorted(users.items()):
        lines += [f"user {name}", *(f"topic read {one}" for one in rights.reads)]
        lines += [*(f"topic write {one}" for one in rights.writes), ""]
    for name in revoked:
        lines += [f"user {name}", "topic deny #", ""]
    for name in escaped:
        lines += [f"user {name}", f"topic write {prefix}/+/{discovery_node(fleet, name)}/+/config", ""]
    lines += [f"pattern write {base}/{kind.value}" for kind in (*FROM_DEVICE, *FOR_OTHERS)]
    lines += [f"pattern write {prefix}/+/{discovery_node(fleet, '')}%u/+/config"]
    lines += [f"pattern read {base}/{kind.value}" for kind in TO_DEVICE]
    return "\n".join(lines) + "\n"


class MosquittoFiles:
    """Keeps the files of one broker in step with the database.

    Several processes may share the folder: each writes the complete state, in files that are renamed into place.
    """

    def __init__(
        self,
        database: Database,
        folder: Path,
        fleet: str,
        login: tuple[str, str],
        reload: str | None,
        certificates: Certificates | None = None,
        prefix: str = DISCOVERY_PREFIX,
    ) -> None:
        self._database = database
        self._prefix = prefix
        self._folder = folder
        self._fleet = fleet
        self._user, password = login
        self._own = f"{self._user}:{hash_password(password)}"
        self._password = password
        self._reload = reload
        self._certificates = certificates
        self._changes = threading.Condition()
        self._asked = 0
        self._done = 0
        self._stopping = False

    def write(self) -> bool:
        """Write the files that differ and reload the broker; returns whether any did.

        Raises:
            FleetError: the folder cannot be written or the command fails.
        """
        with self._database.reading() as session:
            rows = session.execute(
                select(Device.name, Device.admission, Device.password_hash).order_by(Device.name)
            )
            users = {
                row.name: Rights(row.password_hash, tuple(row.reads), tuple(row.writes))
                for row in session.scalars(select(MqttUser).order_by(MqttUser.name))
            }
            admitted = [f"{name}:{rights.password_hash}" for name, rights in users.items()]
            shut_out: list[str] = []
            escaped: list[str] = []
            for name, admission, known in rows:
                if name == self._user or name in users:
                    continue  # A device of that name would share its access.
                if admission == "accepted" and set("._") & set(name):
                    escaped.append(name)
                if admission == "revoked":
                    shut_out.append(name)
                elif admission == "accepted" and known.startswith("$7$"):
                    admitted.append(f"{name}:{known}")
        content: dict[str, bytes] = {
            PASSWORDS: ("\n".join([self._kept_own(), *admitted]) + "\n").encode(),
            ACCESS: access_list(
                self._fleet, self._user, shut_out, users=users, escaped=escaped, prefix=self._prefix
            ).encode(),
        }
        if self._certificates is not None and self._certificates.authority is not None:
            content[REVOKED] = self._certificates.revoked_list() or b""
            content[AUTHORITY] = self._certificates.authority.pem.encode()
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            changed = [_replace(self._folder / name, data) for name, data in content.items()]
        except OSError as error:
            raise FleetError(
                f"cannot write the broker's files in {self._folder}: {error.strerror}"
            ) from error
        if any(changed) and self._reload:
            self._run_reload(self._reload)
        return any(changed)

    def _kept_own(self) -> str:
        """The password line of the fleet's processes. An existing line for the same user and password is kept, so
        that the file does not change for a new salt."""
        try:
            first = (self._folder / PASSWORDS).read_text().partition("\n")[0]
        except (FileNotFoundError, UnicodeDecodeError):
            return self._own
        user, _, known = first.partition(":")
        return first if user == self._user and check_password(known, self._password) else self._own

    @staticmethod
    def _run_reload(command: str) -> None:
        try:
            subprocess.run(shlex.split(command), check=True, capture_output=True, timeout=RELOAD_S)
        except (OSError, ValueError, subprocess.SubprocessError) as error:
            raise FleetError(f"EDGEC_FLEET_MQTT_RELOAD: {command!r} failed: {error}") from error

    def changed(self) -> None:
        """Report that devices came or went; returns once the broker knows, or after a timeout. Concurrent calls
        share one rewrite."""
        with self._changes:
            self._asked += 1
            mine = self._asked
            self._changes.notify_all()
            self._changes.wait_for(lambda: self._done >= mine or self._stopping, WAIT_S)

    def run(self) -> None:
        """Write after each change until `stop`."""
        while True:
            with self._changes:
                self._changes.wait_for(lambda: self._asked > self._done or self._stopping)
                if self._stopping:
                    return
                upto = self._asked
            try:
                self.write()
            except (FleetError, OperationalError) as error:
                log.error("the broker has not been told of a change of devices yet: %s", error)
                with self._changes:
                    if self._changes.wait_for(lambda: self._stopping, 1.0):
                        return
                continue
            with self._changes:
                self._done = max(self._done, upto)
                self._changes.notify_all()

    def stop(self) -> None:
        """End `run`."""
        with self._changes:
            self._stopping = True
            self._changes.notify_all()


def _replace(path: Path, data: bytes) -> bool:
    try:
        if path.read_bytes() == data:
            return False
    except FileNotFoundError:
        pass
    # The broker may run as another user and must still be able to read it.
    replace_file(path, data, mode=0o640, keep_owner=True)
    return True


def configuration(
    folder: Path,
    *,
    port: int,
    host: str = "0.0.0.0",
    server_port: int,
    server_host: str = "127.0.0.1",
    tls: Path | None = None,
    user_port: int | None = None,
) -> str:
    """A `mosquitto.conf` for these files: one listener for devices, whose client id is forced to be their name,
    and one for the fleet's own processes. With `tls` (a folder with server.pem and server.key) devices
    authenticate with certificates, which also name them; `user_port` then is for users that are no devices, such as
    Home Assistant, who have a password and no certificate."""
    secured = ""
    if tls is not None:
        secured = f"""certfile {tls / "server.pem"}
keyfile {tls / "server.key"}
cafile {folder / AUTHORITY}
crlfile {folder / REVOKED}
require_certificate true
use_identity_as_username true
"""
        if user_port is not None:
            secured += f"""listener {user_port} {host}
use_username_as_clientid true
certfile {tls / "server.pem"}
keyfile {tls / "server.key"}
"""
    return f"""# Written by 'edgec fleet mosquitto'. Devices: {port}; the fleet's own processes: {server_port}.
listener {port} {host}
use_username_as_clientid true
{secured}listener {server_port} {server_host}
allow_anonymous false
password_file {folder / PASSWORDS}
acl_file {folder / ACCESS}
persistence true
persistence_location {folder}/
pid_file {folder / PID}
autosave_interval 60
# Of a process of the fleet that is gone for good.
persistent_client_expiration 7d
# The fleet acknowledges when its database has a message, in batches; until then it waits here, not dropped.
max_inflight_messages 4000
max_queued_messages 10000000
max_packet_size 524288
set_tcp_nodelay true
"""
