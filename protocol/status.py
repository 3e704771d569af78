"""Presence and health, as reported by a device."""

from __future__ import annotations

from enum import StrEnum
from typing import ClassVar, Literal

from pydantic import AliasChoices, AwareDatetime, Field

from edgec.protocol.codec import Message
from edgec.protocol.names import Digest, Name


class Presence(StrEnum):
    """Whether a device is connected."""

    ONLINE = "online"
    STOPPED = "stopped"  # disconnected on purpose
    OFFLINE = "offline"  # the broker's last will


class Status(Message):
    """Retained on `status`; the last will is a `Status` with `offline`.

    Attributes:
        boot_id: Changes with each start of the agent.
        session_seq: Counts the agent's connections and persists across restarts. With it `supersedes` tells a last
            will that arrives late from the current session.
    """

    REMEMBERED: ClassVar[int] = 32
    """Number of tokens that a device keeps."""

    state: Presence
    boot_id: str = Field(max_length=64)
    session_seq: int = Field(ge=0)
    agent_version: str = ""
    target: str = ""
    labels: dict[str, str] = Field(default_factory=dict)
    time: AwareDatetime | None = None
    """When the status was sent; absent from a last will, as the device cannot know when the broker publishes it."""
    reason: str = ""
    session: str = Field(default="", max_length=64)
    """Random token of this session; older agents omit it."""
    before: list[str] = Field(default_factory=list, max_length=64)
    """Tokens of the sessions before it, newest first: with them a device shows that it continues its own record,
    which a copy of its state from earlier does not. Absent from a last will."""

    def supersedes(self, other: Status | None) -> bool:
        """Return whether this message replaces `other`, the last one accepted."""
        if other is None or self.session_seq != other.session_seq:
            return other is None or self.session_seq > other.session_seq
        # Within a session `online` comes first, and `stopped` or `offline` is final.
        return self.state != Presence.ONLINE and other.state == Presence.ONLINE


class RivalNotice(Message):
    """Sent on `status/rival` when two processes use one device's identity, such as those of a copied card.

    Attributes:
        holder: The `boot_id` of the process that keeps the identity.
        refused: That of the one that must not use it.
    """

    holder: str = Field(max_length=64)
    refused: str = Field(max_length=64)


class StageLatency(Message):
    """Latency of a stage over the last window, in milliseconds."""

    p50_ms: float = Field(ge=0)
    p99_ms: float = Field(ge=0)


class StreamHealth(Message):
    """Health of one stream; over its life `captured = processed + dropped + in_flight`."""

    name: Name
    state: Literal["starting", "running", "stalled", "restarting", "paused", "ended", "failed"]
    model: str = ""
    fps: float = Field(default=0.0, ge=0)
    """Frames processed per second, averaged over the last seconds."""
    captured_fps: float | None = Field(default=None, ge=0)
    """Frames per second delivered by the source; older agents omit it."""
    captured: int = Field(default=0, ge=0)
    processed: int = Field(default=0, ge=0)
    dropped: int = Field(default=0, ge=0)
    in_flight: int = Field(default=0, ge=0)
    gated: int = Field(default=0, ge=0)
    """Frames among `processed` that a motion or level gate withheld from the model."""
    events: int = Field(default=0, ge=0)
    errors: int = Field(default=0, ge=0)
    damaged: int = Field(default=0, ge=0)
    """Pictures of the source that could not be decoded whole: they are counted, and not processed."""
    restarts: int = Field(default=0, ge=0)
    latency: dict[str, StageLatency] = Field(default_factory=dict)
    """Latency by stage: `queue`, `inference`, `post`, `total`."""
    throttled_to_fps: float | None = None
    comparison: dict[str, float | None] | None = None
    """Comparison with a candidate model on the same stream: `frames`, `disagreements` and mean `agreement`."""
    message: str = ""


class ModelHealth(Message):
    """Health of one model slot."""

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
    """Messages waiting to be sent."""

    depth: int = Field(default=0, ge=0)
    bytes: int = Field(default=0, ge=0)
    oldest_age_s: float = Field(default=0.0, ge=0)
    dropped: int = Field(default=0, ge=0)
    """Non-critical messages dropped because a limit was reached."""
    pressure: float = Field(default=0.0, ge=0)
    """0 (empty) to 1 (at the limit)."""


class CapturesHealth(Message):
    """Captures for retraining."""

    waiting: int = Field(default=0, ge=0)
    bytes: int = Field(default=0, ge=0)
    kept: int = Field(default=0, ge=0)
    """Written to the device's disk since the inference process started."""
    sent: int = Field(default=0, ge=0)
    refused: int = Field(default=0, ge=0)
    """Not stored or not sent: over the quota or a limit, no face model loaded, or rejected by the fleet server."""
    message: str = ""


class Health(Message):
    """Published on `health`: on change, on reconnect and at a fixed interval."""

    boot_id: str
    session_seq: int = Field(ge=0)
    time: AwareDatetime
    cause: Literal["change", "interval", "reconnect", "request"] = "interval"
    agent_version: str = ""
    target: str = ""
    uptime_s: float = Field(default=0.0, ge=0)
    interval_s: float | None = Field(default=None, gt=0)
    """How often the device reports at least; older agents omit it."""
    streams: list[StreamHealth] = Field(default_factory=list)
    models: list[ModelHealth] = Field(default_factory=list)
    outbox: OutboxHealth = Field(default_factory=OutboxHealth)
    captures: CapturesHealth | None = Field(
        default=None, validation_alias=AliasChoices("captures", "samples")
    )
    """Sent as `captures`; `samples`, the name that older agents send, is still read."""
    cpu_percent: float | None = None
    """CPU use of all the agent's processes together, in percent of one core: 150 is one and a half cores."""
    memory_bytes: int | None = None
    temperature_c: float | None = None
    disk_free_bytes: int | None = None
    clock_trusted: bool = True
    job_id: str = ""
    job_step: str = ""
    degraded: list[str] = Field(default_factory=list)
    """What the device has currently reduced and why, one sentence each."""
