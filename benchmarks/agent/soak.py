"""A soak test of the whole agent: its memory, frame rate and latency, with a broker and a subscriber.

    python -m edgec.benchmarks.agent.soak --artifact detector.edge --video film.mp4 --seconds 1800 --csv soak.csv

Starts Mosquitto and `edgec agent run` in a temporary folder, subscribes to the agent's messages, and writes a row every
ten seconds. `edgec.benchmarks.agent.soak_plot` draws them. The frame rate is low (`--fps`), so that it runs beside
other work.

Memory means the anonymous pages of the agent's processes, resident or swapped out. The usual figures (RSS, PSS) vary by
tens of megabytes with every other program that maps the same libraries, and with a kernel that reclaims pages of files
early, so they cannot reveal a slow leak.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import paho.mqtt.client as mqtt
import psutil
from paho.mqtt.enums import CallbackAPIVersion

from edgec.protocol.codec import decode
from edgec.protocol.events import DetectionEvent
from edgec.protocol.status import Health
from edgec.protocol.topics import Kind, parse

_INTERVAL_S = 10
_CONFIG = """
[agent]
state = "state"
fleet = "bench"
device = "soak"
health_interval_s = {interval}
[broker]
port = {port}
[models.m]
artifact = "{artifact}"
threads = 1
[streams.a]
source = {{ kind = "file", path = "{video}", pace = "real", fps = {fps}, width = 320, height = 240 }}
model = "m"
policy = "every"
update_interval_s = 0.001
tracker = {{ confirm = 1, lost_s = 0.5 }}
"""


class Subscriber:
    """Receives the agent's messages: latencies of its events, and each health message."""

    def __init__(self, port: int) -> None:
        self._lock = threading.Lock()
        self._latencies_ms: list[float] = []
        self._sequences: list[int] = []
        self._health: Health | None = None
        self._arrived = threading.Event()
        self._client = mqtt.Client(CallbackAPIVersion.VERSION2, protocol=mqtt.MQTTv311)
        self._client.on_connect = lambda client, *_: client.subscribe("edgec/v1/#", 1)
        self._client.on_message = lambda _client, _data, message: self._take(message)
        self._client.connect("127.0.0.1", port)
        self._client.loop_start()

    def _take(self, message: mqtt.MQTTMessage) -> None:
        kind = parse(message.topic).kind
        if kind is Kind.EVENT:
            event = decode(DetectionEvent, message.payload)
            frame = event.data.frame
            with self._lock:
                self._sequences.append(int(event.sequence))
                if frame is not None and event.data.phase != "end":
                    self._latencies_ms.append((time.time() - frame.captured_at.timestamp()) * 1000)
        elif kind is Kind.HEALTH:
            self._health = decode(Health, message.payload)
            self._arrived.set()

    def next(self, timeout_s: float) -> tuple[Health, list[float]]:
        """Wait for a health message; returns it with the latencies since the one before, sorted.

        Raises:
            TimeoutError: none arrives.
        """
        if not self._arrived.wait(timeout_s):
            raise TimeoutError(f"no health message for {timeout_s:.0f} s")
        self._arrived.clear()
        with self._lock:
            seen, self._latencies_ms = sorted(self._latencies_ms), []
        assert self._health is not None
        return self._health, seen

    @property
    def lost(self) -> int:
        """Number of missing sequence numbers of events."""
        with self._lock:
            numbers = set(self._sequences)
        return max(numbers) - min(numbers) + 1 - len(numbers) if numbers else 0

    def close(self) -> None:
        """Stop listening."""
        self._client.disconnect()
        self._client.loop_stop()


def own_bytes(pid: int) -> int:
    """Anonymous memory of a process, resident or swapped out."""
    lines = Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines()
    values = {name: value for name, _, value in (line.partition(":") for line in lines)}
    return sum(int(values[name].split()[0]) * 1024 for name in ("RssAnon", "VmSwap"))


@contextmanager
def agent_with_broker(folder: Path, options: argparse.Namespace) -> Iterator[tuple[psutil.Process, int]]:
    """Run Mosquitto and an agent; yields the agent's process and the broker's port."""
    mosquitto = shutil.which("mosquitto", path=f"{os.environ['PATH']}:/usr/sbin")
    if mosquitto is None:
        sys.exit("the soak needs mosquitto: apt install mosquitto")
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = int(sock.getsockname()[1])
    (folder / "mosquitto.conf").write_text(f"listener {port} 127.0.0.1\nallow_anonymous true\n")
    files = {"artifact": options.artifact.resolve(), "video": options.video.resolve()}
    config = folder / "agent.toml"
    config.write_text(_CONFIG.format(port=port, interval=_INTERVAL_S, fps=options.fps, **files))
    command = [sys.executable, "-m", "edgec.cli.main", "agent", "run", "--config", str(config)]
    with (folder / "log").open("wb") as log:
        broker = subprocess.Popen([mosquitto, "-c", str(folder / "mosquitto.conf")], stdout=log, stderr=log)
        agent = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            while not _listens(port):
                if broker.poll() is not None:
                    sys.exit((folder / "log").read_text())
            yield psutil.Process(agent.pid), port
        finally:
            for process in (agent, broker):
                process.send_signal(signal.SIGTERM)
                process.wait(30)


def _listens(port: int) -> bool:
    with socket.socket() as sock:
        sock.settimeout(0.5)
        return sock.connect_ex(("127.0.0.1", port)) == 0


def soak(options: argparse.Namespace) -> dict[str, Any]:
    """Run for the requested time, write the rows, and summarise them."""
    with (
        tempfile.TemporaryDirectory() as name,
        options.csv.open("w", encoding="utf-8") as file,
        agent_with_broker(Path(name), options) as (agent, port),
    ):
        subscriber = Subscriber(port)
        file.write("seconds,memory_mb,fps,p50_ms,p99_ms\n")
        rows: list[tuple[float, ...]] = []
        restarts: dict[str, int] = {}
        for health, row in observations(agent, subscriber, options.seconds):
            restarts = {"capture": health.streams[0].restarts, "inference": health.models[0].restarts}
            rows.append(row)
            file.write(",".join(f"{value:.2f}" for value in row) + "\n")
            file.flush()
        cpu = sum(sum(one.cpu_times()[:2]) for one in (agent, *agent.children()))
        lost = subscriber.lost
        subscriber.close()
    return summary(np.array(rows)) | {
        "cpu_percent_of_one_core": round(100 * cpu / options.seconds, 1),
        "events_lost": lost,
        "restarts": restarts,
    }


def observations(
    agent: psutil.Process, subscriber: Subscriber, seconds: float
) -> Iterator[tuple[Health, tuple[float, ...]]]:
    """Yield each health message with a row of figures."""
    begin, last = time.monotonic(), None
    while (now := time.monotonic() - begin) < seconds:
        health, seen = subscriber.next(120)
        stream, now = health.streams[0], time.monotonic() - begin
        if last is not None and stream.state == "running" and seen:
            pids = [agent.pid, *(one.pid for one in agent.children())]
            memory = sum(own_bytes(pid) for pid in pids) / 1e6
            rate = (stream.processed - last[1]) / (now - last[0])
            yield health, (now, memory, rate, seen[len(seen) // 2], seen[round((len(seen) - 1) * 0.99)])
        last = now, stream.processed


def summary(rows: Any) -> dict[str, Any]:  # noqa: ANN401 - an array of rows
    """The slope of memory, fitted to all rows but the first fifth, and median rates and latencies."""
    steady = rows[len(rows) // 5 :]
    across = steady[:, 0] / 3600
    slope, offset = np.polyfit(across, steady[:, 1], 1)
    spread = steady[:, 1] - (slope * across + offset)
    error = float(
        np.sqrt(np.sum(spread**2) / max(1, len(steady) - 2) / np.sum((across - across.mean()) ** 2))
    )
    tenth = max(1, len(steady) // 10)
    return {
        "seconds": round(float(rows[-1, 0])),
        "memory_mb": {
            "first tenth": round(statistics.median(steady[:tenth, 1]), 2),
            "last tenth": round(statistics.median(steady[-tenth:, 1]), 2),
            "least": round(float(steady[:, 1].min()), 2),
            "most": round(float(steady[:, 1].max()), 2),
        },
        "slope_mb_per_hour": round(float(slope), 2),
        "slope_standard_error": round(error, 2),
        "fps": round(float(np.mean(steady[:, 2])), 2),
        "p50_ms": round(statistics.median(steady[:, 3]), 2),
        "p99_ms": round(statistics.median(steady[:, 4]), 2),
    }


def main() -> None:
    """Run and print JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--artifact", type=Path, required=True)
    parser.add_argument("--video", type=Path, required=True)
    parser.add_argument("--fps", type=float, default=5.0)
    parser.add_argument("--seconds", type=float, default=1800.0)
    parser.add_argument("--csv", type=Path, default=Path("soak.csv"))
    json.dump(soak(parser.parse_args()), sys.stdout, indent=2)


if __name__ == "__main__":
    main()
