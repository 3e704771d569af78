"""Devices that speak the real protocol and simulate the inference."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion

from edgec.protocol.codec import decode, encode
from edgec.protocol.events import DetectionData, DetectionEvent, FrameRef, ModelRef, Phase
from edgec.protocol.jobs import JobState, JobUpdate, PendingJobs
from edgec.protocol.status import Health, ModelHealth, Presence, StageLatency, Status, StreamHealth
from edgec.protocol.topics import Topics, parse


def _box(number: int) -> tuple[float, float, float, float]:
    """A box that wanders through a frame of 640 × 480."""
    left, top = 40.0 + 83 * number % 460, 60.0 + 47 * number % 200
    return (left, top, left + 90, top + 170)


class SimDevice:
    """A device: presence with last will, health, events, and jobs that it carries out at once.

    `outcome` decides how an update job ends.
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
