"""Real processes of the fleet server, and what they run on."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx

from edgec.benchmarks.fleet.backends import Mosquitto, Postgres
from edgec.benchmarks.processes import end_with_parent
from edgec.fleet.client.connection import FleetClient
from tests import preloaded


def wait_for(condition: Callable[[], Any], timeout_s: float = 30.0, what: str = "") -> Any:
    """Poll until `condition` is true; its value. Never less than a minute: a loaded machine is no failure."""
    timeout_s = max(timeout_s, 60.0)
    end = time.monotonic() + timeout_s
    pause_s = 0.03
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > end:
            raise AssertionError(f"waited {timeout_s} s in vain for {what or condition}")
        time.sleep(pause_s)
        pause_s = min(1.3 * pause_s, 0.15)  # each look costs the server some of what is waited for


def said_port(process: subprocess.Popen[bytes], log: Path) -> int:
    """The port that a program says in its log that it has taken."""

    def said() -> int:
        assert process.poll() is None, log.read_text()
        found = re.search(r"(?:Running|listening) on (?:http://)?127\.0\.0\.1:(\d+)", log.read_text())
        return int(found[1]) if found else 0

    return int(wait_for(said, 60, "a port"))


class ObjectStore:
    """A process that speaks S3, with a bucket."""

    BUCKET = "edge"

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.url = ""
        self.process: subprocess.Popen[bytes]

    def start(self) -> ObjectStore:
        log = self.folder / "moto.log"
        command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", "0"]
        with log.open("wb") as stream:
            self.process = subprocess.Popen(command, stdout=stream, stderr=stream, preexec_fn=end_with_parent)
        self.url = f"http://127.0.0.1:{said_port(self.process, log)}"
        self.client().create_bucket(Bucket=self.BUCKET)
        return self

    def client(self) -> Any:
        import boto3

        keys = {"aws_access_key_id": "k", "aws_secret_access_key": "s", "region_name": "us-east-1"}
        return boto3.client("s3", endpoint_url=self.url, **keys)

    def settings(self, prefix: str) -> dict[str, str]:
        """The environment of a fleet server that keeps its blobs here."""
        return {
            "EDGEC_FLEET_BLOBS": f"s3://{self.BUCKET}/{prefix}",
            "EDGEC_FLEET_S3_ENDPOINT": self.url,
            "AWS_ACCESS_KEY_ID": "k",
            "AWS_SECRET_ACCESS_KEY": "s",
            "AWS_DEFAULT_REGION": "us-east-1",
        }

    def keys(self, prefix: str) -> list[str]:
        found = self.client().list_objects_v2(Bucket=self.BUCKET, Prefix=prefix)
        return [item["Key"] for item in found.get("Contents", ())]

    def stop(self) -> None:
        self.process.kill()
        self.process.wait(10)


class Backend:
    """What a server runs on: `embedded` is SQLite and our own broker, `external` PostgreSQL and Mosquitto; blobs in
    a folder, or in an object store."""

    def __init__(self, postgres: Postgres | None = None, objects: ObjectStore | None = None) -> None:
        self.postgres, self.objects = postgres, objects
        self.external = postgres is not None

    def environment(self, folder: Path, name: str) -> tuple[dict[str, str], Mosquitto | None]:
        """Settings for one server, with a database and a broker of its own."""
        if self.objects is not None:
            return self.objects.settings(name), None
        if self.postgres is None:
            return {}, None
        broker = Mosquitto(folder / f"{name}-mosquitto", name).start()
        return broker.settings() | {"EDGEC_FLEET_DATABASE": self.postgres.create(name)}, broker


class FleetServer:
    """`edgec fleet serve` as a process on free ports."""

    def __init__(
        self,
        data: Path,
        *flags: str,
        backend: Backend | None = None,
        program: Path | None = None,
        **environment: str,
    ) -> None:
        self.data = data
        self._flags = flags
        self._program = program
        self._starts = 0
        self._name = f"edgec-{uuid.uuid4().hex[:12]}"
        self.external = backend is not None and backend.external
        self.environment, self.broker = (backend or Backend()).environment(data.parent, self._name)
        self.environment |= environment
        self.process: preloaded.Process | subprocess.Popen[bytes]
        self.info: dict[str, Any] = {}

    def start(self, **ports: int) -> FleetServer:
        self._starts += 1
        ready = self.data.parent / f"{self.data.name}-ready-{self._starts}.json"
        arguments = ["fleet", "serve", "--data", self.data, "--ready-file", ready, "--json", *self._flags]
        arguments += ["--port", ports.get("port", 0), "--mqtt-port", ports.get("mqtt_port", 0)]
        self.log = self.data.parent / f"{self.data.name}-{self._starts}.log"
        environment = os.environ | {"HOME": str(self.data.parent)} | self.environment
        with self.log.open("wb") as log:
            self.process = preloaded.start(
                *arguments, stdout=log, stderr=log, env=environment, program=self._program
            )
        wait_for(lambda: ready.exists() or self.process.poll() is not None, 60, "the server to be ready")
        assert self.process.poll() is None, self.log.read_text()
        self.info = json.loads(ready.read_text())
        return self

    def restart(self) -> None:
        """Start again on the same ports."""
        self.start(port=self.info["port"], mqtt_port=self.info["mqtt_port"])

    def stop_process(self) -> int:
        """Stop the server alone."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(60)

    def stop(self) -> int:
        code = self.stop_process()
        if self.broker is not None:
            self.broker.stop()
        return code

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(60)

    @property
    def url(self) -> str:
        return str(self.info["url"])

    @property
    def token(self) -> str:
        return Path(self.info["admin_token_file"]).read_text().strip()

    def client(self, token: str | None = None) -> FleetClient:
        return FleetClient(self.url, token or self.token)

    def enroll(self, name: str, target: str = "x86-64-v3", **labels: str) -> dict[str, Any]:
        with self.client() as client:
            secret = client.post("/enroll-tokens", {"uses": 1})["token"]
        body = {"token": secret, "device": name, "target": target, "labels": labels}
        answer = httpx.post(f"{self.url}/api/v1/enroll", json=body)
        assert answer.status_code == 201, answer.text
        return dict(answer.json())
