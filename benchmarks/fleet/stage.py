"""The stage of a measurement: backends, a server process, enrolled devices and the processes that simulate them."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil

from edgec.benchmarks.fleet.backends import Mosquitto, Postgres
from edgec.benchmarks.processes import end_with_parent
from edgec.fleet.store.database import Database

PLAYERS = 5000
"""Maximum number of connections per simulating process."""


@dataclass
class Stage:
    """A running fleet. `backend` is `embedded` or `external`."""

    backend: str
    folder: Path
    url: str
    token: str
    fleet: str
    mqtt: tuple[str, int]
    database: Database
    servers: list[subprocess.Popen[bytes]]
    processes: dict[str, int] = field(default_factory=dict)
    credentials: list[tuple[str, str]] = field(default_factory=list)
    environment: dict[str, str] = field(default_factory=dict)
    """Of the servers, to start further ones."""

    def client(self) -> httpx.Client:
        """An administrator's HTTP client."""
        return httpx.Client(
            base_url=self.url, headers={"Authorization": f"Bearer {self.token}"}, timeout=60.0
        )

    def metrics(self) -> dict[str, float]:
        """The server's metrics by name and labels."""
        lines = httpx.get(f"{self.url}/metrics").text.splitlines()
        return {
            name: float(value)
            for name, value in (line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
        }

    def cpu(self) -> dict[str, float]:
        """CPU seconds used by each part, including its children."""
        result = {}
        for name, pid in self.processes.items():
            with contextlib.suppress(psutil.NoSuchProcess):
                process = psutil.Process(pid)
                total = sum(process.cpu_times()[:4])
                for child in process.children(recursive=True):
                    with contextlib.suppress(psutil.NoSuchProcess):
                        total += sum(child.cpu_times()[:2])
                result[name] = round(total, 2)
        return result


def enroll(database: Database, number: int, prefix: str = "sim") -> list[tuple[str, str]]:
    """Enrol devices as the API does, in one transaction; returns names and passwords."""
    from edgec.fleet.devices.enrolment import NewEnrollToken, issue_enroll_token
    from edgec.fleet.devices.enrolment import enroll as enroll_one
    from edgec.protocol.enrol import EnrollRequest

    made = []
    with database.writing() as session:
        _row, secret = issue_enroll_token(session, "benchmark", NewEnrollToken(uses=number))
        for index in range(number):
            request = EnrollRequest(
                token=secret,
                device=f"{prefix}-{index:05d}",
                target="x86-64-v3",
                labels={"line": f"l{index % 10}"},
            )
            device, password, _token = enroll_one(session, request)
            made.append((device.name, password))
    return made


def _database(backend: str, folder: Path, stack: ExitStack) -> tuple[str, dict[str, int]]:
    if backend == "embedded":
        (folder / "data").mkdir()
        return f"sqlite:///{folder / 'data' / 'fleet.db'}", {}
    postgres = Postgres(folder / "pg", durable=True).start()
    stack.callback(postgres.stop)
    return postgres.create("edgec"), {"postgresql": postgres._server_pid()}


@contextlib.contextmanager
def stage(backend: str, folder: Path, devices: int, servers: int = 1) -> Iterator[Stage]:
    """Start everything, with `devices` enrolled; stop it at the end of the block."""
    with ExitStack() as stack:
        url, processes = _database(backend, folder, stack)
        database = Database(url)
        stack.callback(database.close)
        database.migrate()
        credentials = enroll(database, devices)
        fleet = f"f{uuid.uuid4().hex[:8]}"
        environment = dict(os.environ) | {"EDGEC_FLEET_FLEET": fleet}
        if backend == "external":
            broker = Mosquitto(folder / "mosquitto", fleet).start()
            stack.callback(broker.stop)
            processes["mosquitto"] = broker.pid
            environment |= broker.settings() | {"EDGEC_FLEET_DATABASE": url}
            if servers > 1:
                environment["EDGEC_FLEET_MQTT_SHARED"] = "ingest"
        infos, running = [], []
        for index in range(servers):
            process, info = serve(folder, environment, index, stack)
            running.append(process)
            infos.append(info)
            processes[f"fleet {index + 1}" if servers > 1 else "fleet"] = process.pid
        token = Path(infos[0]["admin_token_file"]).read_text().strip()
        mqtt = (str(infos[0]["mqtt_host"]), int(infos[0]["mqtt_port"]))
        yield Stage(
            backend, folder, infos[0]["url"], token, fleet, mqtt, database, running, processes, credentials,
            environment,
        )  # fmt: skip


def serve(
    folder: Path, environment: dict[str, str], index: int, stack: ExitStack
) -> tuple[subprocess.Popen[bytes], dict[str, Any]]:
    """Start a server process; `stack` stops it. Returns it and what it wrote when it was ready."""
    ready = folder / f"ready-{index}.json"
    command = [sys.executable, "-m", "edgec.cli.main", "fleet", "serve", "--data", str(folder / "data")]
    command += ["--port", "0", "--mqtt-port", "0", "--ready-file", str(ready), "--json"]
    log = (folder / f"fleet-{index}.log").open("wb")
    stack.callback(log.close)
    process = subprocess.Popen(command, stdout=log, stderr=log, env=environment, preexec_fn=end_with_parent)

    def stop() -> None:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(10)

    stack.callback(stop)
    end = time.monotonic() + 90
    while not ready.exists():
        if process.poll() is not None or time.monotonic() > end:
            raise RuntimeError((folder / f"fleet-{index}.log").read_text()[-2000:])
        time.sleep(0.05)
    return process, json.loads(ready.read_text())


class Players:
    """The processes that simulate the devices."""

    def __init__(self, place: Stage, number: int, *, failing: float = 0.0) -> None:
        self._parts: list[subprocess.Popen[str]] = []
        chosen = place.credentials[:number]
        for start in range(0, number, PLAYERS):
            path = place.folder / f"players-{start}.json"
            access = {
                "host": place.mqtt[0], "port": place.mqtt[1], "fleet": place.fleet, "failing": failing,
                "devices": chosen[start : start + PLAYERS],
            }  # fmt: skip
            path.write_text(json.dumps(access))
            self._parts.append(
                subprocess.Popen(
                    [sys.executable, "-m", "edgec.benchmarks.fleet.devices", str(path)],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    text=True,
                    env=os.environ | {"PYTHONHASHSEED": "0"},
                )
            )
        for index, part in enumerate(self._parts):
            place.processes[f"devices {index + 1}"] = part.pid
        self.connected = [self._answer(part) for part in self._parts]

    @staticmethod
    def _answer(part: subprocess.Popen[str]) -> dict[str, Any]:
        assert part.stdout is not None
        line = part.stdout.readline()
        if not line:
            raise RuntimeError("a process of simulated devices ended")
        return dict(json.loads(line))

    @property
    def online(self) -> int:
        """Number of devices that connected initially."""
        return sum(int(item["connected"]) for item in self.connected)

    def tell(self, **command: Any) -> None:  # noqa: ANN401 - JSON
        """Send a command to each; `rate` is divided among them."""
        for part in self._parts:
            assert part.stdin is not None
            own = command | ({"rate": command["rate"] / len(self._parts)} if "rate" in command else {})
            part.stdin.write(json.dumps(own) + "\n")
            part.stdin.flush()

    def report(self) -> list[dict[str, Any]]:
        """The reports of all processes."""
        self.tell(do="report")
        return [self._answer(part) for part in self._parts]

    def stop(self) -> None:
        """Disconnect all and end the processes."""
        for part in self._parts:
            if part.poll() is None:
                assert part.stdin is not None
                with contextlib.suppress(BrokenPipeError):
                    part.stdin.write('{"do":"stop"}\n')
                    part.stdin.close()
                try:
                    part.wait(20)
                except subprocess.TimeoutExpired:
                    part.kill()
                    part.wait()


class RowWatch(threading.Thread):
    """Looks for new rows of detections, by their key, and notes how long each took from publish to being seen
    here; `pace_s` is how exactly."""

    def __init__(self, database: Database, pace_s: float = 0.02) -> None:
        super().__init__(daemon=True)
        self._database, self._pace = database, pace_s
        self.latencies: list[float] = []
        self.sent_at: list[float] = []
        self.first = self.last = 0.0
        self._halt = threading.Event()

    def run(self) -> None:
        """Poll until `halt`."""
        from sqlalchemy import text

        # Keys are handed out before the commit: with several writers a lower one may appear later, so all rows
        # since a while ago are looked at, and those seen are left out.
        key = 0
        while not self._halt.is_set():
            with self._database.engine.connect() as connection:
                if not self._database.is_sqlite:
                    # Without statistics, which a table of a few seconds lacks, the whole of it would be read each time.
                    connection.execute(text("SET LOCAL enable_seqscan = off"))
                rows = connection.execute(
                    text("SELECT id, at FROM detections WHERE id > :key ORDER BY id"), {"key": key}
                ).all()
            now = time.time()
            if rows:
                self.first = self.first or now
                self.last = now
                key = rows[-1][0]
                self.latencies += [now - row[1] for row in rows]
                self.sent_at += [row[1] for row in rows]
            self._halt.wait(self._pace)

    def halt(self) -> None:
        """Stop polling."""
        self._halt.set()
        self.join()
