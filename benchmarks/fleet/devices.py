"""Many simulated devices in one process: the real protocol, simulated inference.

Run as `python -m edgec.benchmarks.fleet.devices FILE`: FILE names broker, fleet and credentials. Commands come as
JSON lines on standard input (`events`, `health`, `report`, `stop`), reports leave the same way.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
import uuid
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from edgec.benchmarks.fleet.mqtt import Connection
from edgec.fleet.broker.packets import connect_packet
from edgec.protocol.codec import encode
from edgec.protocol.events import DetectionData, DetectionEvent, FrameRef, ModelRef, Phase
from edgec.protocol.status import (
    Health,
    ModelHealth,
    OutboxHealth,
    Presence,
    StageLatency,
    Status,
    StreamHealth,
)
from edgec.protocol.topics import Topics

CONNECTING = 100
"""Concurrent handshakes."""
KEEPALIVE_S = 60
_MARK = {"id": "event-id-of-32-hexadecimal-digit", "sequence": "987654321"}


def _stamp(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).isoformat().replace("+00:00", "Z")


def event_template(fleet: str, device: str) -> tuple[bytes, bytes, bytes]:
    """A detection's JSON in three parts, between which the event's id and its time (twice) are inserted."""
    moment = datetime(2001, 2, 3, 4, 5, 6, 789012, UTC)
    data = DetectionData(
        phase=Phase.NEW, track_id="t1", label="person", class_id=1, score=0.83, box=(40.0, 60.0, 130.0, 230.0),
        started_at=moment, frame=FrameRef(number=9, width=640, height=480, captured_at=moment),
        model=ModelRef(name="detector", version="1"), zones=["door"],
    )  # fmt: skip
    event = DetectionEvent.of(
        data, source=f"/edgec/{fleet}/{device}/cam", event_id=_MARK["id"], sequence=987654321, time=moment
    )
    head, rest = encode(event).split(_MARK["id"].encode(), 1)
    middle, tail = rest.split(b"2001-02-03T04:05:06.789012Z", 1)
    return head, middle, tail


class Device:
    """One device: its connection and pending messages."""

    def __init__(self, fleet: SimFleet, name: str, password: str) -> None:
        self.fleet, self.name = fleet, name
        self.topics = Topics(fleet.name, name)
        self.ready = asyncio.Event()
        self.refused = 0
        self.running = ("", "", "")
        self.boot = uuid.uuid4().hex
        self._seen: set[str] = set()
        self._unacked: dict[int, float] = {}
        will = (self.topics.status, self._status(Presence.OFFLINE))
        hello = connect_packet(
            f"edgec-{fleet.name}-{name}", (name, password), clean=True, keepalive_s=KEEPALIVE_S, will=will
        )
        self.link = Connection(hello, self._on_ready, self._on_message, self._on_ack, self._on_lost)
        self.event_topic = self.topics.events("cam")
        self.template = event_template(fleet.name, name)

    def _status(self, state: Presence) -> bytes:
        return encode(
            Status(state=state, boot_id=self.boot, session_seq=1, target="x86-64-v3", agent_version="1")
        )

    def _on_ready(self, code: int) -> None:
        self.refused = code
        if code == 0:
            self.link.subscribe(self.topics.subscriptions())
            self.link.publish(self.topics.status, self._status(Presence.ONLINE), retain=True)
            self.fleet.online += 1
        self.ready.set()

    def _on_lost(self) -> None:
        if self.ready.is_set() and self.refused == 0:
            self.fleet.online -= 1
            if not self.fleet.stopping:
                self.fleet.lost += 1
        self.refused = self.refused or -1
        self.ready.set()

    def _on_ack(self, mid: int) -> None:
        if (sent := self._unacked.pop(mid, None)) is not None:
            self.fleet.acks.append(time.time() - sent)

    def _on_message(self, topic: str, payload: bytes) -> None:
        if not topic.endswith("/jobs/notify"):
            return
        for job in json.loads(payload)["executions"]:
            name = job["job_id"]
            if name in self._seen:
                self.fleet.repeats += 1
                continue
            self._seen.add(name)
            self._job(name, job["document"])

    def _job(self, name: str, document: dict[str, Any]) -> None:
        topic = self.topics.job_update(name)
        self.link.publish(topic, b'{"schema_version":1,"state":"IN_PROGRESS","details":{"step":"loading"}}')
        fails = self.fleet.fails(self.name)
        state = "FAILED" if fails else "SUCCEEDED"
        if not fails:
            self.running = (document["model"], document["version"], document["manifest_digest"])
        self.fleet.jobs[state] = self.fleet.jobs.get(state, 0) + 1
        self.link.publish(topic, b'{"schema_version":1,"state":"%s","details":{}}' % state.encode())
        self.health()

    def event(self, at: float) -> None:
        """Publish a detection."""
        head, middle, tail = self.template
        payload = b"".join((head, uuid.uuid4().hex.encode(), middle, _stamp(at).encode(), tail))
        self._unacked[self.link.publish(self.event_topic, payload)] = at
        self.fleet.sent += 1

    def health(self) -> None:
        """Publish a health message."""
        model, version, digest = self.running
        latency = {"total": StageLatency(p50_ms=8.0, p99_ms=12.0)}
        stream = StreamHealth(
            name="cam", state="running", model="m", fps=24.5, latency=latency, processed=100, captured=102,
            dropped=2,
        )  # fmt: skip
        models = []
        if model:
            models = [
                ModelHealth(slot="m", name=model, version=version, state="running", manifest_digest=digest)
            ]
        now = time.time()
        health = Health(
            boot_id=self.boot, session_seq=1, time=datetime.fromtimestamp(now, UTC), target="x86-64-v3",
            streams=[stream], models=models, outbox=OutboxHealth(), cpu_percent=55.0, memory_bytes=2**28,
            temperature_c=61.0,
        )  # fmt: skip
        self._unacked[self.link.publish(self.topics.health, encode(health))] = now
        self.fleet.sent += 1


class SimFleet:
    """Devices that share a process."""

    def __init__(self, access: dict[str, Any]) -> None:
        self.name: str = access["fleet"]
        self._host, self._port = access["host"], access["port"]
        self._failing = float(access.get("failing", 0.0))
        self.online = self.lost = self.sent = self.repeats = 0
        self.stopping = False
        self.acks: list[float] = []
        self.jobs: dict[str, int] = {}
        self.devices = [Device(self, name, password) for name, password in access["devices"]]
        self._tasks: set[asyncio.Task[None]] = set()

    def fails(self, name: str) -> bool:
        """Whether this device's updates fail; the same devices every time."""
        return (hash(name.encode()) % 10_000) / 10_000 < self._failing if self._failing else False

    async def connect(self) -> list[int]:
        """Connect all, a few at a time; returns the codes of refusals."""
        gate = asyncio.Semaphore(CONNECTING)
        loop = asyncio.get_running_loop()

        async def one(device: Device) -> None:
            async with gate:
                try:
                    async with asyncio.timeout(60):
                        await loop.create_connection(lambda: device.link, self._host, self._port)
                        await device.ready.wait()
                except (OSError, TimeoutError):
                    device.refused = device.refused or -2

        await asyncio.gather(*(one(device) for device in self.devices))
        return [device.refused for device in self.devices if device.refused]

    async def events(self, rate: float, seconds: float) -> None:
        """Publish `rate` detections per second, over all devices in turn."""
        began = time.monotonic()
        sent = 0
        while (passed := time.monotonic() - began) < seconds:
            due = int(passed * rate)
            now = time.time()
            while sent < due:
                self.devices[sent % len(self.devices)].event(now)
                sent += 1
            await asyncio.sleep(0.01)

    async def health(self, every_s: float, seconds: float) -> None:
        """Publish each device's health every `every_s` seconds, evenly spread."""
        began = time.monotonic()
        sent, rate = 0, len(self.devices) / every_s
        while (passed := time.monotonic() - began) < seconds:
            due = int(passed * rate)
            while sent < due:
                self.devices[sent % len(self.devices)].health()
                sent += 1
            await asyncio.sleep(0.01)

    async def keep_alive(self) -> None:
        """Ping in turn, each in time."""
        while not self.stopping:
            for index, device in enumerate(self.devices):
                device.link.ping()
                if index % 50 == 49:
                    await asyncio.sleep(KEEPALIVE_S / 2 / max(len(self.devices) / 50, 1))
            await asyncio.sleep(1)

    def report(self) -> dict[str, Any]:
        """Counters, and times to acknowledgement since the last report."""
        acks, self.acks = sorted(self.acks), []
        at = (
            {f"ack_p{p}_s": round(acks[min(len(acks) * p // 100, len(acks) - 1)], 4) for p in (50, 99)}
            if acks
            else {}
        )
        return {
            "online": self.online, "lost": self.lost, "sent": self.sent, "acked": len(acks),
            "jobs": dict(self.jobs), "repeats": self.repeats, **at,
        }  # fmt: skip

    def spawn(self, work: Any) -> None:  # noqa: ANN401 - a coroutine
        """Run in the background."""
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


async def _main(path: Path) -> None:
    fleet = SimFleet(json.loads(path.read_text()))
    began = time.monotonic()
    refused = await fleet.connect()
    _say({"connected": fleet.online, "refused": refused[:5], "seconds": round(time.monotonic() - began, 2)})
    fleet.spawn(fleet.keep_alive())
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), sys.stdin
    )
    while line := await reader.readline():
        command = json.loads(line)
        if command["do"] == "stop":
            break
        if command["do"] == "events":
            fleet.spawn(fleet.events(command["rate"], command["seconds"]))
        elif command["do"] == "health":
            fleet.spawn(fleet.health(command["every_s"], command["seconds"]))
        elif command["do"] == "report":
            _say(fleet.report())
    fleet.stopping = True
    for device in fleet.devices:
        device.link.close()
    await asyncio.sleep(0.2)


def _say(value: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(value) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    import uvloop

    uvloop.run(_main(Path(sys.argv[1])))
