"""Rows of telemetry and detections, from the messages that devices publish."""

from __future__ import annotations

from typing import Any

from edgec.fleet.devices.slots import CANDIDATE_SLOT, RUNS
from edgec.fleet.store.tables import Device
from edgec.protocol.events import DetectionEvent
from edgec.protocol.status import Health, ModelHealth

MAX_AHEAD_S = 300.0
SLOT_MARK = "@"
"""Begins the `stream` of a slot's telemetry; no stream is named so."""
MAX_COUNT = 2**63 - 1


def detection_row(
    device_id: int, stream: str, event: DetectionEvent, text: str, now: float
) -> dict[str, Any]:
    """The row of a detection. `text` is the event's data as JSON, `now` the Unix time of arrival."""
    data = event.data
    return {
        "device_id": device_id,
        "event_id": event.id,
        "stream": stream,
        "at": plausible_time(event.time.timestamp(), now),
        "received_at": now,
        "phase": data.phase.value,
        "label": data.label[:128],
        "score": data.score,
        "track_id": data.track_id[:64],
        "version": data.model.version[:128],
        "data": text,
    }


def update_device(device: Device, health: Health) -> ModelHealth | None:
    """Copy the latest figures into the device's row; its main model stays the same while it runs."""
    slots = running_slots(health)
    main = next((slot for slot in slots if slot.name == device.model), slots[0] if slots else None)
    if main is not None:
        device.model, device.version = main.name[:128], main.version[:128]
        device.digest = main.manifest_digest or ""
    latencies = [stage.p50_ms for s in health.streams if (stage := s.latency.get("total"))]
    device.fps = sum(s.fps for s in health.streams) if health.streams else None
    device.latency_ms = max(latencies, default=None)
    device.agent_version = (health.agent_version or device.agent_version)[:64]
    device.health = health.model_dump(mode="json", exclude_none=True)
    return main


def running_slots(health: Health) -> list[ModelHealth]:
    """The slots whose model runs, on probation or for good, without those of experiments."""
    return [one for one in health.models if one.state in RUNS and not one.slot.startswith(CANDIDATE_SLOT)]


def telemetry_rows(
    device: Device, health: Health, main: ModelHealth | None, now: float
) -> list[dict[str, Any]]:
    """The rows of a health message: the device as a whole, each stream and, where several models run, the share of
    each (`SLOT_MARK` and the slot). `now` is the Unix time of arrival."""
    at, slots = plausible_time(health.time.timestamp(), now), running_slots(health)
    whole = _row(
        device, "", at,
        fps=device.fps, latency_ms=device.latency_ms, dropped=sum(s.dropped for s in health.streams),
        cpu_percent=health.cpu_percent, memory_bytes=health.memory_bytes, temperature_c=health.temperature_c,
        errors=sum(m.errors for m in slots), processed=sum(m.inferences for m in slots),
        events=sum(s.events for s in health.streams), score_mean=main.score_mean if main else None,
    )  # fmt: skip
    streams = [
        _row(
            device, stream.name, at,
            fps=stream.fps, latency_ms=total.p50_ms if (total := stream.latency.get("total")) else None,
            dropped=stream.dropped, errors=stream.errors, processed=stream.processed, events=stream.events,
        )
        for stream in health.streams
    ]  # fmt: skip
    shares = [_slot_row(device, health, slot, at) for slot in slots] if len(slots) > 1 else []
    return [whole, *streams, *shares]


def _slot_row(device: Device, health: Health, slot: ModelHealth, at: float) -> dict[str, Any]:
    """The figures of one slot: its own, and those of the streams that it serves."""
    streams = [stream for stream in health.streams if stream.model == slot.slot]
    latencies = [stage.p50_ms for stream in streams if (stage := stream.latency.get("total"))]
    own = slot.latency.p50_ms if slot.latency else None
    row = _row(
        device, slot_stream(slot.slot), at,
        fps=sum(stream.fps for stream in streams) if streams else None, latency_ms=max(latencies, default=own),
        dropped=sum(stream.dropped for stream in streams), errors=slot.errors, processed=slot.inferences,
        events=sum(stream.events for stream in streams), score_mean=slot.score_mean,
    )  # fmt: skip
    return row | {"version": slot.version[:128]}


def slot_stream(slot: str) -> str:
    """Where telemetry keeps the figures of a slot, beside those of streams."""
    return f"{SLOT_MARK}{slot}"[:64]


def _row(device: Device, stream: str, at: float, **numbers: float | None) -> dict[str, Any]:
    columns = (
        "fps", "latency_ms", "dropped", "processed", "errors", "events", "score_mean",
        "cpu_percent", "memory_bytes", "temperature_c",
    )  # fmt: skip
    row = {"device_id": device.id, "stream": stream, "at": at, "version": device.version}
    return row | {name: None if (n := numbers.get(name)) is None else min(n, MAX_COUNT) for name in columns}


def plausible_time(at: float, now: float) -> float:
    """The device's time, unless its clock is ahead or was never set: then the time of arrival.

    A message that waited on the device keeps its own time.
    """
    return now if at > now + MAX_AHEAD_S or at < 1.5e9 else at
