"""Messages between the supervisor and the inference process."""

from __future__ import annotations

from typing import Any

import msgspec

from edgec.device_agent.process.messages import Message, decoder


class MediaLimits(msgspec.Struct, frozen=True):
    """Where snapshots and clips go, and how much of them is kept."""

    folder: str
    max_bytes: int
    clip_before_s: float
    clip_after_s: float
    reserve_bytes: int = 0
    """Space on the disk that pictures leave free."""
    picture_interval_s: float = 0.0
    """How often a picture goes to the broker; 0 for never."""


class CaptureLimits(msgspec.Struct, frozen=True):
    """Where captures for retraining wait, how many may be taken, and the slot of the model that finds faces."""

    folder: str
    max_bytes: int
    per_day: int
    faces: str | None


class StartInference(Message, frozen=True):
    """Begin to serve. Descriptor: the pulse."""

    boot: str
    generation: int
    device: str
    media: MediaLimits
    captures: CaptureLimits


class AddStream(Message, frozen=True):
    """Serve a stream, or serve it with other settings.

    Descriptors: the ring, *ready*, *space*; then, where the live view is on, the view's ring and its eventfd.
    """

    stream: str
    settings: dict[str, Any]
    """A `StreamSection` as JSON."""
    watched: bool


class ChangeStream(Message, frozen=True):
    """Serve a stream with settings that differ only in what a pipeline takes between two frames."""

    stream: str
    settings: dict[str, Any]
    """A `StreamSection` as JSON."""


class RemoveStream(Message, frozen=True):
    """End a stream's tracks and release its ring."""

    stream: str


class WatchStream(Message, frozen=True):
    """Copy the stream's frames to the live view, or stop copying."""

    stream: str
    on: bool


class HoldSlot(Message, frozen=True):
    """Let the slot's frames wait for its first model."""

    slot: str


class EmptySlot(Message, frozen=True):
    """Unload the slot's models."""

    slot: str


class DiscardModel(Message, frozen=True):
    """Unload a model that was loaded beside the running one."""

    slot: str
    token: str


class StopInference(Message, frozen=True):
    """End every track, then the process."""


class Request(Message, frozen=True, kw_only=True):
    """A message that is answered; the answer repeats `key`, which the supervisor sets."""

    key: str = ""


class LoadModel(Request, frozen=True):
    """Load a model beside the running one; the request's key then is the model's token."""

    slot: str
    path: str
    digest: str | None
    threads: int | None


class SwapModel(Request, frozen=True):
    """Make a loaded model the active one, from the next frame on."""

    slot: str
    token: str


class RevertModel(Request, frozen=True):
    """Make the previous model the active one, from the next frame on."""

    slot: str


class ReleaseModels(Request, frozen=True):
    """Unload the previous model and, unless `waiting` is false, those that were loaded beside."""

    slot: str
    waiting: bool = True


class TakeCaptures(Request, frozen=True):
    """Keep the next processed frames for the fleet."""

    stream: str
    count: int
    interval_s: float
    job_id: str | None


class RequestReport(Request, frozen=True):
    """Return the counters of every stream and slot."""


class DetectionFound(Message, frozen=True):
    """An event of a pipeline."""

    stream: str
    id: str
    critical: bool
    data: dict[str, Any]
    """The fields of `edgec.protocol.events.DetectionData`."""


class CaptureKept(Message, frozen=True):
    """The spool holds a new capture."""


class PictureTaken(Message, frozen=True):
    """A picture of a stream for the broker's users, as often as `[homeassistant] picture_interval_s` says."""

    stream: str
    jpeg: bytes


class Answer(Message, frozen=True):
    """What became of a request; `error` is empty when it was carried out."""

    key: str
    error: str = ""
    captures: list[str] = msgspec.field(default_factory=list)
    """Ids of the captures that were taken."""


class Latency(msgspec.Struct, frozen=True):
    """Percentiles over the last calls, in milliseconds."""

    p50_ms: float
    p99_ms: float


class ModelCounters(msgspec.Struct, frozen=True):
    """One loaded model's work since it was loaded."""

    name: str = ""
    version: str = ""
    manifest_digest: str = ""
    inferences: int = 0
    errors: int = 0
    results: int = 0
    score_mean: float | None = None
    results_per_frame: float | None = None
    scores: list[int] = msgspec.field(default_factory=list)
    """Histogram of scores, 20 bins from 0 to 1."""
    latency: Latency | None = None
    last_error: str = ""


class SlotCounters(msgspec.Struct, frozen=True):
    """A slot's models; the previous one while it is still loaded."""

    active: ModelCounters | None = None
    previous: ModelCounters | None = None


class PipelineCounters(msgspec.Struct, frozen=True):
    """One stream's work since it was added; `latency` by stage."""

    gated: int = 0
    events: int = 0
    errors: int = 0
    message: str = ""
    comparison: dict[str, Any] | None = None
    latency: dict[str, Latency] = msgspec.field(default_factory=dict)


class CaptureCounters(msgspec.Struct, frozen=True):
    """Captures that were kept and refused since the process began."""

    kept: int = 0
    refused: int = 0
    problem: str = ""


class Report(Message, frozen=True):
    """The answer to `RequestReport`; `generation` tells one inference process from the next."""

    key: str = ""
    generation: int = 0
    streams: dict[str, PipelineCounters] = msgspec.field(default_factory=dict)
    slots: dict[str, SlotCounters] = msgspec.field(default_factory=dict)
    captures: CaptureCounters = CaptureCounters()


ToInference = (
    AddStream | ChangeStream | RemoveStream | WatchStream | HoldSlot | EmptySlot | DiscardModel | StopInference
    | LoadModel | SwapModel | RevertModel | ReleaseModels | TakeCaptures | RequestReport
)  # fmt: skip
FromInference = DetectionFound | CaptureKept | PictureTaken | Answer | Report
START_INFERENCE: msgspec.json.Decoder[StartInference] = decoder(StartInference)
TO_INFERENCE: msgspec.json.Decoder[ToInference] = decoder(ToInference)
FROM_INFERENCE: msgspec.json.Decoder[FromInference] = decoder(FromInference)
