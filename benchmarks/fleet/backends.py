"""Private PostgreSQL and Mosquitto processes with folders of their own, for measurements and tests."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

from edgec.benchmarks.processes import end_with_parent
from edgec.fleet.broker.mosquitto import ACCESS, CONFIG, PASSWORDS, access_list, configuration
from edgec.fleet.broker.passwords import hash_password

SERVER_USER = "edgec-fleet"
_POSTGRES = "/usr/lib/postgresql"


class BackendMissing(RuntimeError):
    """A program is not installed; the message says how to install it."""


def program(name: str, package: str) -> str:
    """The path of a program.

    Raises:
        BackendMissing: it is not there.
    """
    versions = [str(path) for path in sorted(Path(_POSTGRES).glob("*/bin"), reverse=True)]
    path = ":".join([*versions, os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin"])
    found = shutil.which(name, path=path)
    if found is None:
        raise BackendMissing(f"{name} is not installed: apt-get install {package}")
    return found


def free_port() -> int:
    """A port of the loopback interface that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_port(port: int, process: subprocess.Popen[bytes], log: Path, timeout_s: float = 60.0) -> None:
    """Wait until `port` accepts connections.

    Raises:
        RuntimeError: the process ended, or time is up.
    """
    end = time.monotonic() + timeout_s
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError as error:
            if process.poll() is not None or time.monotonic() > end:
                raise RuntimeError(f"nothing listens on {port}: {log.read_text()[-800:]}") from error
            time.sleep(0.02)


def _as(user: str) -> list[str]:
    """PostgreSQL refuses to run as root."""
    return [program("runuser", "util-linux"), "-u", user, "--"] if os.getuid() == 0 else []


class Postgres:
    """A database server that listens only on a socket in its folder; `durable` as in production, otherwise fast."""

    def __init__(self, folder: Path, *, durable: bool) -> None:
        self._folder = folder
        self._durable = durable
        self._data = folder / "data"
        self._process: subprocess.Popen[bytes] | None = None
        folder.mkdir(parents=True, exist_ok=True)
        if os.getuid() == 0:
            shutil.chown(folder, "postgres")
        self._open_the_way()
        command = [program("initdb", "postgresql"), "-D", str(self._data), "-U", "edgec", "-A", "trust", "-N"]
        command += ["--locale=C.UTF-8", "-E", "UTF8"]
        subprocess.run(_as("postgres") + command, check=True, capture_output=True, cwd="/")

    def _open_the_way(self) -> None:
        """Let the server's user reach its folder; the owner of a parent may have closed it again, as pytest does."""
        for parent in self._folder.parents if os.getuid() == 0 else ():
            if parent.stat().st_mode & 0o001 == 0 and parent != Path("/"):
                parent.chmod(parent.stat().st_mode | 0o011)

    def start(self) -> Postgres:
        """Start, and wait until connections are accepted."""
        self._open_the_way()
        options = [
            "listen_addresses=",
            f"unix_socket_directories={self._folder}",
            "max_connections=60",
            "shared_buffers=256MB" if self._durable else "shared_buffers=32MB",
        ]
        if not self._durable:
            # A commit survives a crash of the process, as tests require, but not one of the machine.
            options += ["fsync=off", "full_page_writes=off"]
        command = [program("postgres", "postgresql"), "-D", str(self._data)]
        for option in options:
            command += ["-c", option]
        log = self._folder / "log"
        with log.open("ab") as stream:
            self._process = subprocess.Popen(
                _as("postgres") + command,
                stdout=stream,
                stderr=stream,
                cwd="/",
                start_new_session=True,
                preexec_fn=end_with_parent,
            )
        end = time.monotonic() + 90
        ask = [program("pg_isready", "postgresql-client"), "-h", str(self._folder), "-U", "edgec", "-q"]
        while subprocess.run(ask, check=False).returncode != 0:
            if self._process.poll() is not None or time.monotonic() > end:
                raise RuntimeError(f"PostgreSQL does not start: {log.read_text()[-800:]}")
            time.sleep(0.05)
        return self

    def url(self, name: str = "postgres") -> str:
        """The URL of a database in it."""
        return f"postgresql://edgec@/{name}?host={self._folder}"

    def create(self, name: str) -> str:
        """Create a database and return its URL."""
        import psycopg

        with psycopg.connect(self.url(), autocommit=True) as connection:
            connection.execute(psycopg.sql.SQL("CREATE DATABASE {}").format(psycopg.sql.Identifier(name)))
        return self.url(name)

    def _server_pid(self) -> int:
        return int((self._data / "postmaster.pid").read_text().split()[0])

    def stop(self, *, immediately: bool = False) -> None:
        """Stop; `immediately` as a crash would."""
        if self._process is None or self._process.poll() is not None:
            return
        os.kill(self._server_pid(), signal.SIGQUIT if immediately else signal.SIGINT)
        self._process.wait(60)


class Mosquitto:
    """A broker with the fleet's access rules; `port` is for devices, `server_port` for the fleet."""

    def __init__(self, folder: Path, fleet: str, *, tls: Path | None = None) -> None:
        self.folder = folder
        self.fleet = fleet
        self.port, self.server_port = free_port(), free_port()
        self.password = os.urandom(16).hex()
        self._process: subprocess.Popen[bytes] | None = None
        folder.mkdir(parents=True, exist_ok=True)
        (folder / PASSWORDS).write_text(f"{SERVER_USER}:{hash_password(self.password)}\n")
        (folder / ACCESS).write_text(access_list(fleet, SERVER_USER, []))
        text = configuration(folder, port=self.port, host="127.0.0.1", server_port=self.server_port, tls=tls)
        user = "user root\n" if os.getuid() == 0 else ""
        (folder / CONFIG).write_text(user + text)

    def start(self) -> Mosquitto:
        """Start, and wait until connections are accepted."""
        log = self.folder / "log"
        with log.open("ab") as stream:
            self._process = subprocess.Popen(
                [program("mosquitto", "mosquitto"), "-c", str(self.folder / CONFIG)],
                stdout=stream,
                stderr=stream,
                preexec_fn=end_with_parent,
            )
        wait_port(self.server_port, self._process, log)
        wait_port(self.port, self._process, log)
        return self

    @property
    def url(self) -> str:
        """Broker address for `--mqtt`."""
        return f"mqtt://{SERVER_USER}:{self.password}@127.0.0.1:{self.server_port}"

    def settings(self) -> dict[str, str]:
        """The environment of a fleet server that uses this broker."""
        return {
            "EDGEC_FLEET_MQTT": self.url,
            "EDGEC_FLEET_MQTT_PUBLIC": f"127.0.0.1:{self.port}",
            "EDGEC_FLEET_MQTT_FILES": str(self.folder),
            "EDGEC_FLEET_MQTT_RELOAD": f"kill -HUP {self.pid}",
            "EDGEC_FLEET_FLEET": self.fleet,
        }

    @property
    def pid(self) -> int:
        """Process id of the running broker."""
        assert self._process is not None
        return self._process.pid

    def stop(self, *, immediately: bool = False) -> None:
        """Stop; `immediately` with SIGKILL."""
        if self._process is None or self._process.poll() is not None:
            return
        self._process.send_signal(signal.SIGKILL if immediately else signal.SIGTERM)
        self._process.wait(60)
