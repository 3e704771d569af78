"""Presence and health: what a device says of itself."""

from __future__ import annotations

from enum import StrEnum
from typing import Literal

from pydantic import AwareDatetime, Field

from edgec.protocol.codec import Message
from edgec.protocol.names import Digest, Name


class Presence(StrEnum):
    """Whether a device is there."""

    ONLINE = "online"
    STOPPED = "stopped"  # said goodbye
    OFFLINE = "offline"  # the broker's last will


class Status(Message):
    """Retained on ``status``; the last will is one with ``offline``.

    ``boot_id`` is new with each start of the agent, ``session_seq`` counts its connections for ever (it is
    kept on disk), so a will that arrives late is told from the present session: see ``supersedes``.
    """

    state: Presence
    boot_id: str = Field(max_length=64)
    session_seq: int = Field(ge=0)
    agent_version: str = ""
    target: str = ""
    labels: dict[str, str] = Field(default_factory=dict)
    time: AwareDatetime | None = None
    """When it was said; absent in a last will, which the broker says at a time that nobody knows."""
    reason: str = ""

    def supersedes(self, other: Status | None) -> bool:
        """Return whether this message is news, given the last one that was believed."""
        if other is None or self.session_seq != other.session_seq:
            return other is None or self.session_seq > other.session_seq
        # Within a session, `online` comes first and either end of it is final.
        return self.state != Presence.ONLINE and other.state == Presence.ONLINE


class StageLatency(Message):
    """Milliseconds that a stage took, over the last window."""

    p50_ms: float = Field(ge=0)
    p99_ms: float = Field(ge=0)


class StreamHealth(Message):
    """One stream; ``captured = processed + dropped + in_flight`` over its life."""

    name: Name
    state: Literal["starting", "running", "stalled", "restarting", "paused", "ended", "failed"]
    model: str = ""
    fps: float = Field(default=0.0, ge=0)
    """Frames processed a second, over the last seconds."""
    captured_fps: float | None = Field(default=None, ge=0)
    """Frames that the source delivered a second; agents before this field left it out."""
    captured: int = Field(default=0, ge=0)
    processed: int = Field(default=0, ge=0)
    dropped: int = Field(default=0, ge=0)
    in_flight: int = Field(default=0, ge=0)
    gated: int = Field(default=0, ge=0)
    """Frames of ``processed`` that a motion or level gate kept from the model."""
    events: int = Field(default=0, ge=0)
    errors: int = Field(default=0, ge=0)
    restarts: int = Field(default=0, ge=0)
    latency: dict[str, StageLatency] = Field(default_factory=dict)
    """By stage: ``queue``, ``inference``, ``post``, ``total``."""
    throttled_to_fps: float | None = None
    comparison: dict[str, float | None] | None = None
    """Of a second model beside the stream's own: ``frames``, ``disagreements`` and mean ``agreement``."""
    message: str = ""


class ModelHealth(Message):
    """One model slot and what runs in it."""

    slot: Name
    name: str = ""
    version: str = ""
    manifest_digest: Digest | None = None
    state: Literal["loading", "running", "probation", "failed", "absent"]
    inferences: int = Field(default=0, ge=0)
    errors: int = Field(default=0, ge=0)
    restarts: int = Field(default=0, ge=0)
    latency: StageLatency | None = None
    score_mean: float | None = None
    results_per_frame: float | None = None
    message: str = ""


class OutboxHealth(Message):
    """What waits to be sent."""

    depth: int = Field(default=0, ge=0)
    bytes: int = Field(default=0, ge=0)
    oldest_age_s: float = Field(default=0.0, ge=0)
    dropped: int = Field(default=0, ge=0)
    """Non-critical messages thrown out because a bound was reached."""
    pressure: float = Field(default=0.0, ge=0)
    """0 (empty) to 1 (the bound is reached)."""


class SamplesHealth(Message):
    """Frames for retraining."""

    waiting: int = Field(default=0, ge=0)
    bytes: int = Field(default=0, ge=0)
    kept: int = Field(default=0, ge=0)
    """Written to the device's disk since the inference process began."""
    sent: int = Field(default=0, ge=0)
    refused: int = Field(default=0, ge=0)
    """Not kept or not sent: the quota, a bound, no face model, the fleet server's refusal."""
    message: str = ""


class Health(Message):
    """Published on ``health`` on change, on reconnect and at a set pace."""

    boot_id: str
    session_seq: int = Field(ge=0)
    time: AwareDatetime
    cause: Literal["change", "interval", "reconnect", "request"] = "interval"
    agent_version: str = ""
    target: str = ""
    uptime_s: float = Field(default=0.0, ge=0)
    streams: list[StreamHealth] = Field(default_factory=list)
    models: list[ModelHealth] = Field(default_factory=list)
    outbox: OutboxHealth = Field(default_factory=OutboxHealth)
    samples: SamplesHealth | None = None
    cpu_percent: float | None = None
    """Of one core, of all of the agent's processes: 150 is one and a half cores."""
    memory_bytes: int | None = None
    temperature_c: float | None = None
    disk_free_bytes: int | None = None
    clock_trusted: bool = True
    job_id: str = ""
    job_step: str = ""
    degraded: list[str] = Field(default_factory=list)
    """What the device does less of at the moment, and why, one sentence each."""
