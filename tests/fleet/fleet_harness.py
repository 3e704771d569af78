"""A real server process, and devices that speak the real protocol with simulated inference."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion

from edgec.benchmarks.fleet.backends import Mosquitto, Postgres
from edgec.fleet.client.connection import FleetClient
from edgec.protocol.codec import decode, encode
from edgec.protocol.events import DetectionData, DetectionEvent, FrameRef, ModelRef, Phase
from edgec.protocol.jobs import JobState, JobUpdate, PendingJobs
from edgec.protocol.status import Health, ModelHealth, Presence, StageLatency, Status, StreamHealth
from edgec.protocol.topics import Topics, parse
from edgec.runtime.artifact.config import ArtifactConfig, TensorSpec
from edgec.runtime.artifact.writer import write_artifact


def wait_for(condition: Callable[[], Any], timeout_s: float = 30.0, what: str = "") -> Any:
    """Poll until ``condition`` is true; its value. Never less than a minute: a loaded machine is no failure."""
    timeout_s = max(timeout_s, 60.0)
    end = time.monotonic() + timeout_s
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > end:
            raise AssertionError(f"waited {timeout_s} s in vain for {what or condition}")
        time.sleep(0.05)


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
            self.process = subprocess.Popen(command, stdout=stream, stderr=stream)
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
    """What a server runs on: ``embedded`` is SQLite and our own broker, ``external`` PostgreSQL and Mosquitto; blobs in
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
    """``edgec fleet serve`` as a process on free ports."""

    def __init__(self, data: Path, *flags: str, backend: Backend | None = None, **environment: str) -> None:
        self.data = data
        self._flags = flags
        self._starts = 0
        self._name = f"edgec-{uuid.uuid4().hex[:12]}"
        self.external = backend is not None and backend.external
        self.environment, self.broker = (backend or Backend()).environment(data.parent, self._name)
        self.environment |= environment
        self.process: subprocess.Popen[bytes]
        self.info: dict[str, Any] = {}

    def start(self, **ports: int) -> FleetServer:
        self._starts += 1
        ready = self.data.parent / f"{self.data.name}-ready-{self._starts}.json"
        command = [sys.executable, "-m", "edgec.cli.main", "fleet", "serve", "--data", str(self.data)]
        command += ["--port", str(ports.get("port", 0)), "--mqtt-port", str(ports.get("mqtt_port", 0))]
        command += ["--ready-file", str(ready), "--json", *self._flags]
        self.log = self.data.parent / f"{self.data.name}-{self._starts}.log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                command,
                stdout=log,
                stderr=log,
                env=os.environ | {"HOME": str(self.data.parent)} | self.environment,
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


def _box(number: int) -> tuple[float, float, float, float]:
    """A box that wanders through a frame of 640 × 480."""
    left, top = 40.0 + 83 * number % 460, 60.0 + 47 * number % 200
    return (left, top, left + 90, top + 170)


class SimDevice:
    """A device: presence with last will, health, events, and jobs that it carries out at once.

    ``outcome`` decides how an update job ends.
    """

    def __init__(self, access: dict[str, Any], target: str = "x86-64-v3") -> None:
        self.access = access
        self.name = access["device"]
        self.topics = Topics(access["fleet"], self.name)
        self.target = target
        self.boot = uuid.uuid4().hex
        self.seq = 1
        self.running = {"model": "", "version": "", "digest": None}
        self.outcome: Callable[[dict[str, Any]], JobState] = lambda _document: JobState.SUCCEEDED
        self.jobs_done: list[tuple[str, JobState]] = []
        self.received: list[tuple[str, bytes]] = []
        self.connected = threading.Event()
        self.refused = ""
        self._sequence = 0
        self._seen: set[str] = set()
        client = mqtt.Client(CallbackAPIVersion.VERSION2, f"edgec-{access['fleet']}-{self.name}")
        client.username_pw_set(access["mqtt"]["username"], access["mqtt"]["password"])
        client.on_connect = self._on_connect
        client.on_message = self._on_message
        client.reconnect_delay_set(1, 2)
        self.mqtt = client

    def start(self) -> SimDevice:
        self.mqtt.will_set(self.topics.status, self._status(Presence.OFFLINE), 1, True)
        self.mqtt.connect(self.access["mqtt"]["host"], self.access["mqtt"]["port"], 30)
        self.mqtt.loop_start()
        assert self.connected.wait(60), self.refused
        return self

    def stop(self) -> None:
        if self.mqtt.is_connected():
            self.mqtt.publish(self.topics.status, self._status(Presence.STOPPED), 1, True).wait_for_publish(
                10
            )
        self.mqtt.disconnect()
        self.mqtt.loop_stop()

    def _status(self, state: Presence) -> bytes:
        return encode(
            Status(
                state=state, boot_id=self.boot, session_seq=self.seq, target=self.target, agent_version="9"
            )
        )

    def _on_connect(self, client: mqtt.Client, _data: Any, _flags: Any, reason: Any, _props: Any) -> None:
        if reason.is_failure:
            self.refused = str(reason)
            return
        client.subscribe([(name, 1) for name in self.topics.subscriptions()])
        client.publish(self.topics.status, self._status(Presence.ONLINE), 1, True)
        self.send_health()
        self.connected.set()

    def _on_message(self, client: mqtt.Client, _data: Any, message: mqtt.MQTTMessage) -> None:
        self.received.append((message.topic, message.payload))
        if parse(message.topic).kind != "jobs/notify":
            return
        for job in decode(PendingJobs, message.payload).executions:
            if job.job_id in self._seen:
                continue
            self._seen.add(job.job_id)
            self._update(job.job_id, JobState.IN_PROGRESS)
            end = self.outcome(dict(job.document))
            if end is JobState.IN_PROGRESS:
                continue
            if end is JobState.SUCCEEDED and job.document["operation"] == "update":
                document = job.document
                self.running = {
                    "model": document["model"],
                    "version": document["version"],
                    "digest": document["manifest_digest"],
                }
            self._update(job.job_id, end)
            self.jobs_done.append((job.job_id, end))
            self.send_health()

    def _update(self, job_id: str, state: JobState) -> None:
        update = JobUpdate(state=state, details={"message": f"simulated {state.value}"})
        self.mqtt.publish(self.topics.job_update(job_id), encode(update), 1)

    def send_health(self, **numbers: Any) -> mqtt.MQTTMessageInfo:
        latency = StageLatency(p50_ms=numbers.pop("latency_ms", 8.0), p99_ms=numbers.pop("p99_ms", 100.0))
        stream = StreamHealth(
            name="cam",
            state="running",
            model="m",
            fps=numbers.pop("fps", 24.5),
            latency={"total": latency},
            processed=100,
            captured=102,
            dropped=2,
        )
        models = []
        if self.running["model"]:
            models = [
                ModelHealth(
                    slot="m",
                    name=self.running["model"],
                    version=self.running["version"],
                    state="running",
                    manifest_digest=self.running["digest"],
                    **numbers,
                )
            ]
        health = Health(
            boot_id=self.boot,
            session_seq=self.seq,
            time=datetime.now(UTC),
            target=self.target,
            streams=[stream],
            models=models,
            cpu_percent=55.0,
            memory_bytes=2**28,
            temperature_c=61.0,
        )
        return self.mqtt.publish(self.topics.health, encode(health), 1)

    def event(self, label: str = "person", event_id: str | None = None) -> tuple[str, bytes]:
        """Topic and payload of a detection."""
        self._sequence += 1
        now = datetime.now(UTC)
        data = DetectionData(
            phase=Phase.NEW,
            track_id=f"t{self._sequence}",
            label=label,
            class_id=1,
            score=0.83,
            box=_box(self._sequence),
            started_at=now,
            frame=FrameRef(number=self._sequence, width=640, height=480, captured_at=now),
            model=ModelRef(name=str(self.running["model"]), version=str(self.running["version"])),
        )
        event = DetectionEvent.of(
            data,
            source=f"/edgec/{self.topics.fleet}/{self.name}/cam",
            event_id=event_id or uuid.uuid4().hex,
            sequence=self._sequence,
            time=now,
        )
        return self.topics.events("cam"), encode(event)

    def send_event(self, label: str = "person", event_id: str | None = None) -> mqtt.MQTTMessageInfo:
        topic, payload = self.event(label, event_id)
        return self.mqtt.publish(topic, payload, 1)


def make_artifact(path: Path, name: str = "detector", version: str = "1", target: str = "x86-64-v3") -> str:
    """An artifact in the right form, with code that nobody runs here; its digest."""
    features = {"x86-64-v3": ("avx2", "fma"), "rpi5": ("asimd",)}.get(target, ())
    config = ArtifactConfig(
        name=name,
        version=version,
        target=target,
        arch="aarch64" if target.startswith("rpi") else "x86_64",
        required_features=features,
        inputs=(TensorSpec(name="x", safe_name="x", shape=(1, 4), dtype="float32"),),
        outputs=(TensorSpec(name="y", safe_name="y", shape=(1, 4), dtype="float32"),),
    )
    random = np.random.default_rng(len(name) + len(version))
    weights = {"w": random.normal(size=(64, 1024)).astype(np.float32)}
    evidence = {
        "verified": True,
        "outputs": [{"name": "y", "max_abs": 1.5e-6}],
        "latency": {"edgec": {"median_ms": 4.2}, "onnxruntime": {"median_ms": 6.3}},
    }
    report = (
        f"<html><body><h1>Report of {name} {version}</h1><script>document.title='x'</script></body></html>"
    )
    return write_artifact(
        path,
        config=config,
        code=b"\x7fELF" + version.encode() * 100,
        weights=weights,
        evidence=evidence,
        report_html=report,
    )
