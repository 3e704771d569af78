"""The device's health: collected from every part, published at a pace, on change, on request and on reconnect."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from edgec.device_agent.cloud.capture_uplink import CaptureUplink
from edgec.device_agent.cloud.jobs import JobReporter
from edgec.device_agent.cloud.mqtt_client import Identity, Publisher
from edgec.device_agent.cloud.outbox import Outbox
from edgec.device_agent.health.degraded import Degraded
from edgec.device_agent.health.report import (
    Meter,
    captures_health,
    clock_is_plausible,
    free_bytes,
    model_health,
    stream_health,
)
from edgec.device_agent.inference.messages import PipelineCounters, Report, SlotCounters
from edgec.device_agent.inference.runner import Inference
from edgec.device_agent.inference.streams import Streams
from edgec.device_agent.process.loop import Loop
from edgec.device_agent.updates.deployments import Deployments, Step
from edgec.device_agent.updates.watchdog import Watchdog
from edgec.device_agent.view.runner import ViewRunner
from edgec.protocol.codec import encode
from edgec.protocol.status import Health, OutboxHealth
from edgec.protocol.topics import Topics

Cause = Literal["change", "reconnect", "interval", "request"]
_SOON_S = 0.5
"""Between a change and its message: one message for all changes of a moment."""
_RECONNECT_S = 60.0


@dataclass(frozen=True)
class Sources:
    """The parts whose state health reports."""

    state: Path
    topics: Topics
    identity: Identity
    inference: Inference
    streams: Streams
    view: ViewRunner | None
    deployments: Deployments
    reports: JobReporter
    outbox: Outbox
    captures: CaptureUplink | None
    client: Publisher


class Monitor:
    """Builds and publishes health messages.

    Args:
        loop: the supervisor's.
        sources: the parts to report.
        degraded: what is wrong with them.
        watchdog: judges the models by the counters that arrive here.
        interval_s: returns the pace.
    """

    def __init__(
        self,
        loop: Loop,
        sources: Sources,
        degraded: Degraded,
        watchdog: Watchdog,
        interval_s: Callable[[], float],
    ) -> None:
        self._loop, self._from, self._degraded = loop, sources, degraded
        self._watchdog, self._interval_s = watchdog, interval_s
        self.meter = Meter()
        self._counters = Report()
        self._started = time.monotonic()
        self._soon = False
        self._reconnected = -_RECONNECT_S
        self._stopped = False
        self.latest = self.health("interval")

    def start(self) -> None:
        """Begin to publish at the pace."""
        self._loop.call_later(self._interval_s(), self._due)

    def stop(self) -> None:
        """Publish nothing more."""
        self._stopped = True

    def changed(self) -> None:
        """Publish soon: something that health reports has changed."""
        if not self._soon and not self._stopped:
            self._soon = True
            self._loop.call_later(_SOON_S, self._change_due)

    def reconnected(self) -> None:
        """Publish after a reconnect, not more often than every 60 s."""
        now = time.monotonic()
        if now - self._reconnected >= _RECONNECT_S:
            self._reconnected = now
            self.publish("reconnect")

    def publish(self, cause: Cause) -> None:
        """Request the inference process's counters, and publish when they are here."""
        if self._stopped:
            return

        def ready(done: Future[Report]) -> None:
            if done.exception() is None:
                self._take(done.result())
                self._judge()
            self.latest = self.health(cause)
            self._from.client.publish_now(self._from.topics.health, encode(self.latest))

        self._from.inference.report().add_done_callback(ready)

    def answer_status(self, answer: Callable[[dict[str, Any]], None]) -> None:
        """Answer `edgec agent status`, with fresh figures when the inference process returns them."""

        def ready(done: Future[Report]) -> None:
            if done.exception() is None:
                self._take(done.result())
            topics = self._from.topics
            body = self.health("request").model_dump(mode="json", exclude_none=True)
            connected = self._from.client.connected
            answer({"fleet": topics.fleet, "device": topics.device, "connected": connected, **body})

        self._from.inference.report().add_done_callback(ready)

    def pids(self) -> list[int]:
        """Return every process of the agent."""
        runners = self._from.streams.runners.values()
        others = [self._from.inference.pid, *(runner.pid for runner in runners)]
        others.append(self._from.view.pid if self._from.view else None)
        return [os.getpid(), *(pid for pid in others if pid is not None)]

    def health(self, cause: Cause) -> Health:
        """Return the message from what is known now."""
        parts, counters = self._from, self._counters
        self.meter.measure(self.pids())
        outbox = parts.outbox.state()
        update = parts.deployments.update
        return Health(
            boot_id=parts.identity.boot_id,
            session_seq=parts.client.session_seq,
            time=datetime.now(UTC),
            cause=cause,
            agent_version=parts.identity.agent_version,
            target=parts.identity.target,
            uptime_s=round(time.monotonic() - self._started, 1),
            interval_s=self._interval_s(),
            streams=[
                stream_health(runner.report(), counters.streams.get(name, PipelineCounters()))
                for name, runner in parts.streams.runners.items()
            ],
            models=[
                model_health(
                    slot,
                    self._slot_state(slot, state),
                    parts.inference.messages.get(slot, ""),
                    parts.inference.restarts,
                    counters.slots.get(slot, SlotCounters()),
                )
                for slot, state in parts.inference.slots.items()
            ],
            outbox=OutboxHealth(
                depth=outbox.depth,
                bytes=outbox.bytes,
                oldest_age_s=round(outbox.oldest_age_s, 1),
                dropped=outbox.dropped,
                pressure=round(outbox.pressure, 4),
            ),
            captures=captures_health(parts.captures.state() if parts.captures else None, counters.captures),
            cpu_percent=self.meter.cpu_percent,
            memory_bytes=self.meter.memory_bytes,
            temperature_c=self.meter.temperature_c,
            disk_free_bytes=free_bytes(parts.state),
            clock_trusted=clock_is_plausible(),
            job_id=update.job_id if update else "",
            job_step=parts.reports.step,
            degraded=self._degraded.lines(),
        )

    def _slot_state(self, slot: str, state: str) -> str:
        update = self._from.deployments.update
        on_probation = update is not None and update.slot == slot and update.step is Step.PROBATION
        return "probation" if on_probation and state == "running" else state

    def _take(self, counters: Report) -> None:
        self._counters = counters

    def _judge(self) -> None:
        """Replace a model that fails on every frame by the one before it."""
        for slot, why in self._watchdog.check(self._counters.slots):
            self._degraded.record(f"model {slot}", why)
            self._from.inference.load_slot(slot)

    def _change_due(self) -> None:
        self._soon = False
        self.publish("change")

    def _due(self) -> None:
        if not self._stopped:
            self._loop.call_later(self._interval_s(), self._due)
            self.publish("interval")
