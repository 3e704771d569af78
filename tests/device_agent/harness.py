"""A real broker, a registry that can misbehave, artifacts, and the agent as a process of its own."""

from __future__ import annotations

import contextlib
import hashlib
import http.server
import json
import os
import queue
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import paho.mqtt.client as mqtt
import pytest
from paho.mqtt.enums import CallbackAPIVersion

from edgec.benchmarks.processes import end_with_parent
from edgec.protocol.codec import encode
from edgec.protocol.jobs import JobExecution, JobState, PendingJobs
from edgec.protocol.topics import Kind, Topics, parse
from edgec.runtime.artifact import oci
from edgec.runtime.artifact.config import ArtifactConfig, TensorSpec
from edgec.runtime.artifact.golden import GOLDEN_KEY, describe
from edgec.runtime.artifact.layout_folder import unpack_to_layout
from edgec.runtime.artifact.writer import write_artifact

FAKES = Path(__file__).parent / "fakes"
TARGET = ""
CARD = {"input": {"kind": "image", "width": 64, "height": 48}, "output": {"decoder": "yolox"}}


def make_artifact(
    folder: Path, version: str, size: int = 4096, card: Any = CARD, **behaviour: Any
) -> tuple[Path, str]:
    """Write an artifact whose model behaves as told; returns its file and digest."""
    spec = TensorSpec(name="x", safe_name="x", shape=(1, 4), dtype="float32")
    config = msgspec.convert(
        {
            "name": "detector",
            "version": version,
            "target": "any",
            "arch": os.uname().machine,
            "pipeline": card,
        }
        | {"inputs": (spec,), "outputs": (spec,)},
        ArtifactConfig,
    )
    path = folder / f"detector-{version}.edge"
    golden = describe({"x": np.full(spec.shape, behaviour.pop("golden", 1.0), spec.dtype)})
    weights = {"w": np.random.default_rng(len(version)).random(max(1, size // 8))}
    digest = write_artifact(
        path,
        config=config,
        code=json.dumps(behaviour).encode(),
        weights=weights,
        evidence={GOLDEN_KEY: golden},
    )
    return path, digest


class Broker:
    """mosquitto on a free loopback port; can be stopped and started again on the same one."""

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    def start(self) -> None:
        config = self._folder / "mosquitto.conf"
        config.write_text(f"listener {self.port} 127.0.0.1\nallow_anonymous true\nmax_queued_messages 0\n")
        self._process = subprocess.Popen(
            ["mosquitto", "-c", str(config)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            preexec_fn=end_with_parent,
        )
        wait_for(lambda: can_connect(self.port), "mosquitto to listen")

    def stop(self) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait()
            self._process = None


class FleetEnd:
    """The fleet's side of the topics: hears everything, sends jobs and shadows."""

    def __init__(self, port: int, fleet: str = "test", device: str = "dev-1") -> None:
        self.topics = Topics(fleet, device)
        self.messages: list[tuple[Any, dict[str, Any], bool]] = []
        self._new = queue.SimpleQueue[None]()
        self.client = mqtt.Client(CallbackAPIVersion.VERSION2, client_id="fleet-end", protocol=mqtt.MQTTv311)
        subscribed = threading.Event()
        self.client.on_connect = lambda c, *_: c.subscribe("edgec/v1/#", 1)
        self.client.on_subscribe = lambda *_: subscribed.set()
        self.client.on_message = lambda _c, _u, message: self._take(message)
        self.client.reconnect_delay_set(0.2, 0.5)
        self.client.connect("127.0.0.1", port)
        self.client.loop_start()
        assert subscribed.wait(60)

    def _take(self, message: mqtt.MQTTMessage) -> None:
        if message.payload:
            self.messages.append((parse(message.topic), json.loads(message.payload), message.retain))
            self._new.put(None)

    def of(self, kind: Kind) -> list[dict[str, Any]]:
        return [body for topic, body, _ in list(self.messages) if topic.kind is kind]

    def wait(self, found: Callable[[], Any], what: str, timeout_s: float = 90.0) -> Any:
        """Wait until `found()` is true of what has arrived."""
        deadline = time.monotonic() + timeout_s
        while True:
            if result := found():
                return result
            left = deadline - time.monotonic()
            if left <= 0:
                seen = [
                    (t.kind.name, t.name, str(b)[:200])
                    for t, b, _ in self.messages
                    if t.kind is not Kind.EVENT
                ]
                pytest.fail(f"{what} did not come; heard {seen[-12:]}")
            with contextlib.suppress(queue.Empty):
                self._new.get(timeout=min(left, 1.0))

    def job(self, job_id: str, document: dict[str, Any], version: int = 1) -> None:
        jobs = PendingJobs(executions=[JobExecution(job_id=job_id, document=document, version=version)])
        self.client.publish(self.topics.jobs_notify, encode(jobs), 1, retain=True)

    def no_jobs(self) -> None:
        self.client.publish(self.topics.jobs_notify, encode(PendingJobs()), 1, retain=True).wait_for_publish(
            5
        )

    def job_states(self, job_id: str) -> list[tuple[JobState, dict[str, Any]]]:
        return [
            (JobState(body["state"]), body["details"])
            for topic, body, _ in list(self.messages)
            if topic.kind is Kind.JOB_UPDATE and topic.name == job_id
        ]

    def job_end(self, job_id: str, timeout_s: float = 90.0) -> tuple[JobState, dict[str, Any]]:
        def ended() -> Any:
            ends = [one for one in self.job_states(job_id) if one[0].terminal]
            return ends[-1] if ends else None

        return self.wait(ended, f"the end of job {job_id}", timeout_s)

    def health(
        self, check: Callable[[dict[str, Any]], Any], what: str, timeout_s: float = 90.0, since: int = 0
    ) -> dict[str, Any]:
        """Wait for a health message of which `check` holds, among those after the first `since` messages."""

        def found() -> Any:
            said = (b for t, b, _ in reversed(self.messages[since:]) if t.kind is Kind.HEALTH)
            return next((body for body in said if check(body)), None)

        return self.wait(found, what, timeout_s)

    def close(self) -> None:
        self.client.loop_stop()
        self.client.disconnect()


class Registry:
    """Serves artifacts as an OCI registry does; `faults` is a list of names, one used up a blob request."""

    def __init__(self, folder: Path) -> None:
        self.layout = folder / "registry"
        self.faults: list[str] = []
        self.requests: list[tuple[str, str | None, int]] = []
        self.bytes_sent = 0
        registry = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                with contextlib.suppress(ConnectionError):
                    registry._serve(self)

            def log_message(self, *_: object) -> None:
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def add(self, artifact: Path) -> str:
        return unpack_to_layout(artifact, self.layout)

    def update(self, digest: str, version: str, **more: Any) -> dict[str, Any]:
        return {
            "operation": "update", "model": "detector", "version": version, "manifest_digest": digest,
            "registry": self.url, "repository": "models/detector", "probation_s": 0.5, **more,
        }  # fmt: skip

    def _serve(self, handler: http.server.BaseHTTPRequestHandler) -> None:
        digest = handler.path.rpartition("/")[2]
        path = self.layout / oci.blob_path(digest)
        wanted = handler.headers.get("Range")
        if not oci.is_digest(digest) or not path.is_file():
            self._reply(handler, 404, b"")
            return
        content = path.read_bytes()
        is_blob = "/blobs/" in handler.path
        fault = self.faults.pop(0) if self.faults and is_blob else ""
        self.requests.append((digest, wanted, len(content)))
        start = int(wanted.removeprefix("bytes=").partition("-")[0]) if wanted else 0
        self._reply_with(handler, content, start, bool(wanted), fault)

    def _reply_with(
        self,
        handler: http.server.BaseHTTPRequestHandler,
        content: bytes,
        start: int,
        ranged: bool,
        fault: str,
    ) -> None:
        etag = '"' + hashlib.sha256(content).hexdigest()[:16] + '"'
        body, status, headers = content[start:], 206 if ranged else 200, {"ETag": etag}
        if ranged:
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        match fault:
            case "500" | "503" | "429":
                self._reply(handler, int(fault), b"", {"Retry-After": "0"})
                return
            case "wrong-range" if ranged:
                headers["Content-Range"] = f"bytes {start + 1}-{len(content) - 1}/{len(content)}"
            case "ignore-range":
                body, status = content, 200
                headers.pop("Content-Range", None)
            case "wrong-length":
                self._reply(handler, status, body, headers, length=len(body) + 7)
                return
            case "half":
                self._reply(handler, status, body[: len(body) // 2], headers, length=len(body))
                return
            case "too-much":
                self._reply(handler, status, body + b"x" * 1000, headers, length=None)
                return
            case "altered":
                body = bytes([body[0] ^ 1]) + body[1:]
            case "precondition" if ranged:
                self._reply(handler, 412, b"")
                return
            case "reset":
                handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
                handler.connection.close()
                return
        self._reply(handler, status, body, headers)

    def _reply(
        self,
        handler: http.server.BaseHTTPRequestHandler,
        status: int,
        body: bytes,
        headers: dict[str, str] | None = None,
        length: int | None = -1,
    ) -> None:
        handler.send_response(status)
        for key, value in (headers or {}).items():
            handler.send_header(key, value)
        if length is None:
            handler.send_header("Connection", "close")
        else:
            handler.send_header("Content-Length", str(len(body) if length == -1 else length))
        handler.end_headers()
        handler.wfile.write(body)
        self.bytes_sent += len(body)
        if length is None or (length != -1 and length != len(body)):
            handler.close_connection = True

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


class AgentProcess:
    """`edgec agent run` on a configuration, in a process group of its own."""

    def __init__(self, folder: Path, config: str, broker_port: int | None = None) -> None:
        self.folder = folder
        self.config = folder / "agent.toml"
        broker = (
            f"\n[broker]\nport = {broker_port}\nreconnect_max_s = 0.5\nkeepalive_s = 5\n"
            if broker_port
            else ""
        )
        who = 'fleet = "test"\ndevice = "dev-1"'
        head = f'[agent]\nstate = "state"\n{who}\nhealth_interval_s = 0.5\nlog = "json"\n'
        self.config.write_text(head + broker + config)
        self.state = folder / "state"
        self.process: subprocess.Popen[bytes] | None = None
        self._log = folder / "agent.log"

    def start(self, **environment: str) -> None:
        env = os.environ | {"PYTHONPATH": str(FAKES)} | environment
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "edgec.cli.main", "agent", "run", "--config", str(self.config)],
                env=env, stdout=log, stderr=log, start_new_session=True,
                preexec_fn=partial(end_with_parent, signal.SIGKILL),
            )  # fmt: skip

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def children(self, part: str = "") -> list[int]:
        """Process ids of this agent's children whose command line has `part`."""
        found = []
        for folder in Path("/proc").iterdir():
            if not folder.name.isdigit():
                continue
            with contextlib.suppress(OSError):
                parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
                line = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()
                if parent == self.pid and part in line:
                    found.append(int(folder.name))
        return found

    def kill(self) -> None:
        """kill -9 of the supervisor alone; its children must follow by themselves."""
        assert self.process is not None
        children = self.children()
        self.process.kill()
        self.process.wait()
        wait_for(lambda: not any(alive(pid) for pid in children), "the children to die with the supervisor")

    def stop(self, timeout_s: float = 60.0) -> int:
        if self.process is None or self.process.poll() is not None:
            return self.process.returncode if self.process else 0
        self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            os.killpg(self.pid, signal.SIGKILL)
            self.process.wait()
            raise

    def wait_ended(self, timeout_s: float = 60.0) -> int:
        assert self.process is not None
        return self.process.wait(timeout_s)

    def log_text(self) -> str:
        return self._log.read_text() if self._log.exists() else ""

    def log_lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.log_text().splitlines() if line.startswith("{")]

    def close(self) -> None:
        if self.process is not None and self.process.poll() is None:
            children = self.children()
            os.killpg(self.pid, signal.SIGKILL)
            self.process.wait()
            for pid in children:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)


def note(fault: str, seconds: float, lost: int | None) -> None:
    """Append a case of the fault table to the file that `EDGEC_FAULT_LOG` names; None where there are no events."""
    if path := os.environ.get("EDGEC_FAULT_LOG"):
        with Path(path).open("a", encoding="utf-8") as file:
            file.write(json.dumps({"fault": fault, "seconds": round(seconds, 3), "lost": lost}) + "\n")


def lost_events(fleet: FleetEnd) -> int:
    """Gaps in the sequence numbers of each stream's events."""
    seen: dict[str, set[int]] = {}
    for topic, body, _ in list(fleet.messages):
        if topic.kind is Kind.EVENT:
            seen.setdefault(topic.name, set()).add(int(body["sequence"]))
    return sum(max(numbers) - min(numbers) + 1 - len(numbers) for numbers in seen.values())


@contextlib.contextmanager
def recovering(fault: str, fleet: FleetEnd | None = None) -> Iterator[None]:
    """Note the time that the block takes: from the fault to the proof that all is well again."""
    began = time.monotonic()
    yield
    note(fault, time.monotonic() - began, lost_events(fleet) if fleet is not None else None)


def alive(pid: int) -> bool:
    try:
        return (Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]) not in "ZX"
    except OSError:
        return False


def wait_for(done: Callable[[], Any], what: str, timeout_s: float = 90.0) -> Any:
    deadline = time.monotonic() + timeout_s
    pause_s = 0.02
    while time.monotonic() < deadline:
        if result := done():
            return result
        time.sleep(pause_s)
        pause_s = min(1.2 * pause_s, 0.05)
    pytest.fail(f"waited in vain for {what}")


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def can_connect(port: int) -> bool:
    with socket.socket() as sock:
        sock.settimeout(0.5)
        return sock.connect_ex(("127.0.0.1", port)) == 0


def has_mosquitto() -> bool:
    return shutil.which("mosquitto") is not None
