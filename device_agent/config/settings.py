"""The agent's configuration: one TOML file, validated completely before anything starts."""

from __future__ import annotations

import os
import tomllib
from pathlib import Path
from typing import Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)

from edgec.device_agent.config.error_text import describe, suggest
from edgec.device_agent.config.rules import Gate, Rule, Tracker, Zone
from edgec.device_agent.config.sources import Source
from edgec.device_agent.errors import ConfigError
from edgec.protocol.names import Name


class Section(BaseModel):
    """A table of the file: unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class AgentSection(Section):
    """The device's identity and how the agent runs."""

    state: Path = Path("state")
    """Folder for all persistent state; relative to the configuration file."""
    fleet: Name = "default"
    device: Name | None = None
    """Set by enrolment when absent; the host name if the device is not enrolled."""
    labels: dict[str, str] = Field(default_factory=dict)
    log: Literal["text", "json"] = "text"
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    health_interval_s: float = Field(default=30.0, ge=0.2, le=86400)


class BrokerSection(Section):
    """The MQTT broker; enrolment provides one when this is absent."""

    host: str = "127.0.0.1"
    port: int = Field(default=1883, ge=1, le=65535)
    username: str | None = None
    password: str | None = None
    password_file: Path | None = None
    tls: bool = False
    ca: Path | None = None
    keepalive_s: int = Field(default=30, ge=2, le=3600)
    reconnect_max_s: float = Field(default=60.0, gt=0)
    """Upper bound of the wait between attempts, which is drawn uniformly from 0 (full jitter)."""


class ModelSection(Section):
    """A slot for one model; updates address slots."""

    artifact: Path | None = None
    """The initial model, a `.edge` file; when absent, the slot waits for an update."""
    threads: int | None = Field(default=None, ge=1, le=256)
    timeout_s: float = Field(default=10.0, gt=0)
    """A longer model call counts as a hang: the inference process is killed and restarted."""


class Cascade(Section):
    """A second model that runs on the boxes of the first."""

    model: Name
    labels: list[str] | None = None
    """Only boxes with these labels; all boxes when absent."""
    margin: float = Field(default=0.1, ge=0, le=1)
    """Enlarges the box by this share on each side before cropping."""
    min_size: int = Field(default=16, ge=1)


class Candidate(Section):
    """A second model that is compared with the stream's own."""

    model: Name
    mode: Literal["shadow", "ab"] = "shadow"
    """`shadow`: also runs on the share of frames, without acting; `ab`: replaces the model on that share."""
    share: float = Field(default=1.0, gt=0, le=1)


class CaptureRules(Section):
    """Which frames are captured for retraining, besides those that a job requests."""

    low_confidence: tuple[float, float] | None = None
    """A band of scores, such as `[0.3, 0.5]`: a frame with a result in the band is captured."""
    disagreement: bool = False
    """Capture frames on which the model and its shadow candidate disagree."""
    random_share: float | None = Field(default=None, gt=0, le=1)
    """Capture a random share of all processed frames."""
    min_interval_s: float = Field(default=10.0, ge=0)
    """Minimum time between two captures of the stream, whichever rule selected them."""
    quality: int = Field(default=90, ge=30, le=100)
    """JPEG quality."""

    @field_validator("low_confidence")
    @classmethod
    def _is_a_band(cls, band: tuple[float, float] | None) -> tuple[float, float] | None:
        if band is not None and not 0 <= band[0] <= band[1] <= 1:
            raise ValueError("a band of scores is two numbers from 0 to 1, in ascending order")
        return band


class StreamSection(Section):
    """A pipeline: source → gate → model → tracker → zones and rules → events."""

    source: Source
    model: Name | None = None
    """A slot; when absent, the stream is only captured and shown."""
    enabled: bool = True
    policy: Literal["newest", "every"] = "newest"
    slots: int = Field(default=4, ge=3, le=24)
    priority: int = Field(default=5, ge=0, le=9)
    """9 is the most important: it is throttled last."""
    max_fps: float | None = Field(default=None, gt=0)
    stall_s: float = Field(default=20.0, gt=0)
    """Without a frame for this long, the capture process is killed and restarted."""
    open_timeout_s: float = Field(default=30.0, gt=0)
    min_fps: float | None = Field(default=None, gt=0)
    """Below this rate over a whole stall time, the capture process is restarted, too."""
    state_gap_s: float = Field(default=2.0, gt=0)
    """Without a frame for this long, a model that remembers earlier frames begins anew."""
    labels: list[str] | None = None
    threshold: float | None = Field(default=None, ge=0, le=1)
    update_interval_s: float = Field(default=2.0, gt=0)
    """Interval between a track's `update` events."""
    gate: Gate | None = None
    tracker: Tracker = Field(default_factory=Tracker)
    zones: list[Zone] = Field(default_factory=list)
    rules: list[Rule] = Field(default_factory=list)
    cascade: Cascade | None = None
    candidate: Candidate | None = None
    snapshots: bool = False
    clips: bool = False
    masks: list[Zone] = Field(default_factory=list)
    """Zones that are blurred in every picture that leaves the inference process."""
    capture: CaptureRules | None = None
    """Captures for retraining."""


LIVE = frozenset({"candidate", "capture", "cascade", "labels", "threshold", "update_interval_s"})
"""Settings of a stream that its pipeline takes between two frames: the source stays open, and tracks go on."""


def differs_live(one: StreamSection, other: StreamSection) -> bool:
    """Return whether two settings of a stream differ in nothing but what can change while it runs."""
    return all(
        getattr(one, name) == getattr(other, name) for name in StreamSection.model_fields if name not in LIVE
    )


class CaptureSection(Section):
    """Captures for retraining, limits for all streams together."""

    per_day: int = Field(default=200, ge=1, le=1_000_000)
    """Quota of captures that rules may select per day of running time; jobs do not count against it."""
    max_bytes: int = Field(default=64 * 2**20, ge=2**16)
    """Limit of the spool on disk; beyond it nothing more is captured."""
    faces: Name | None = None
    """A slot with a face detector: faces are blurred before a frame is stored for upload. While that model is not
    loaded, no frame is captured."""


class OutboxSection(Section):
    """Limits of what is stored while the broker is unreachable."""

    max_bytes: int = Field(default=64 * 2**20, ge=65536)
    max_age_s: float = Field(default=7 * 86400.0, gt=0)


class UpdateSection(Section):
    """How model updates are carried out."""

    probation_s: float = Field(default=60.0, ge=0)
    max_error_rate: float = Field(default=0.02, ge=0, le=1)
    max_latency_ratio: float = Field(default=3.0, gt=1)
    """Limit of the new model's median latency relative to the old one's; beyond it, the update is rolled back."""
    max_score_shift: float | None = Field(default=None, gt=0, le=1)
    """Limit of the distance between the score distributions (Kolmogorov-Smirnov, 0 to 1)."""
    download_timeout_s: float = Field(default=3600.0, gt=0)
    trial_timeout_s: float = Field(default=120.0, gt=0)
    reserve_bytes: int = Field(default=64 * 2**20, ge=0)
    """Disk space that snapshots, clips and captures leave free for updates, beside `outbox.max_bytes`; at most a
    quarter of the disk in all."""


class ViewSection(Section):
    """The live view: a page and MJPEG streams on the device."""

    enabled: bool = False
    host: str = "127.0.0.1"
    port: int = Field(default=8088, ge=0, le=65535)
    token: str | None = None
    token_file: Path | None = None


class MetricsSection(Section):
    """Prometheus metrics, on loopback."""

    port: int | None = Field(default=None, ge=0, le=65535)


class MediaSection(Section):
    """Snapshots and clips around events, a ring on disk."""

    max_bytes: int = Field(default=256 * 2**20, ge=2**20)
    clip_before_s: float = Field(default=3.0, ge=0, le=30)
    clip_after_s: float = Field(default=3.0, ge=0, le=30)


class HomeAssistantSection(Section):
    """Retained discovery messages for Home Assistant on the same broker."""

    enabled: bool = False
    prefix: str = Field(
        default="homeassistant", pattern=r"^[A-Za-z0-9_-]+(/[A-Za-z0-9_-]+)*$", max_length=100
    )
    picture_interval_s: float = Field(default=0.0, ge=0)
    """How often a camera's picture (640 pixels wide, masked) goes to the broker; 0 for never, otherwise at least 1.
    A change takes effect when the agent starts."""

    @field_validator("picture_interval_s")
    @classmethod
    def _not_a_video(cls, value: float) -> float:
        if 0 < value < 1:
            raise ValueError("must be 0 (never) or at least 1 second: this is no video")
        return value


class BudgetSection(Section):
    """Resource limits; under pressure the least important streams are throttled first."""

    cpu_percent: float | None = Field(default=None, gt=0)
    """Percent of one core, all of the agent's processes together."""
    memory_mb: float | None = Field(default=None, gt=0)
    temperature_c: float | None = Field(default=None, gt=0)


class AgentConfig(Section):
    """The whole file."""

    agent: AgentSection = Field(default_factory=AgentSection)
    broker: BrokerSection | None = None
    models: dict[Name, ModelSection] = Field(default_factory=dict)
    streams: dict[Name, StreamSection] = Field(default_factory=dict)
    outbox: OutboxSection = Field(default_factory=OutboxSection)
    updates: UpdateSection = Field(default_factory=UpdateSection)
    view: ViewSection = Field(default_factory=ViewSection)
    metrics: MetricsSection = Field(default_factory=MetricsSection)
    media: MediaSection = Field(default_factory=MediaSection)
    capture: CaptureSection = Field(default_factory=CaptureSection)
    homeassistant: HomeAssistantSection = Field(default_factory=HomeAssistantSection)
    budgets: BudgetSection = Field(default_factory=BudgetSection)

    @field_validator("view")
    @classmethod
    def _view_is_guarded(cls, view: ViewSection) -> ViewSection:
        if (
            view.enabled
            and view.host not in ("127.0.0.1", "::1", "localhost")
            and not (view.token or view.token_file)
        ):
            raise ValueError(
                f"a view on {view.host} is open to the network: set view.token or view.token_file"
            )
        return view

    @model_validator(mode="after")
    def _names_exist(self) -> AgentConfig:
        if self.capture.faces is not None and self.capture.faces not in self.models:
            raise ValueError(f"capture.faces: {_no_model(self.capture.faces, self.models)}")
        for name, stream in self.streams.items():
            wanted = {"model": stream.model}
            wanted |= {"cascade.model": stream.cascade.model} if stream.cascade else {}
            wanted |= {"candidate.model": stream.candidate.model} if stream.candidate else {}
            for key, model in wanted.items():
                if model is not None and model not in self.models:
                    raise ValueError(f"streams.{name}.{key}: {_no_model(model, self.models)}")
            zones = [zone.name for zone in stream.zones]
            for place, rule in enumerate(stream.rules):
                if rule.zone is not None and rule.zone not in zones:
                    hint = suggest(rule.zone, zones) or f"; add it under [[streams.{name}.zones]]"
                    raise ValueError(f"streams.{name}.rules.{place}.zone: there is no zone {rule.zone}{hint}")
        return self


def _no_model(name: str, models: dict[str, ModelSection]) -> str:
    hint = suggest(name, list(models)) or f"; add [models.{name}]"
    return f"there is no [models.{name}] in this file{hint}"


def load_config(path: Path) -> AgentConfig:
    """Read and validate the file; relative paths in it are resolved against the file's folder.

    Raises:
        ConfigError: the file cannot be read or is not valid; names file, line and key of the first error.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}; write one with `edgec agent init {path}`") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8 text") from error
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path}: {error}") from error
    return check_config(table, path, text)


def check_config(table: dict[str, Any], path: Path, text: str = "") -> AgentConfig:
    """Validate a parsed configuration; `text` locates the lines of errors.

    Raises:
        ConfigError: as for `load_config`.
    """
    try:
        config = AgentConfig.model_validate(table, context={"base": path.parent.resolve()})
    except ValidationError as error:
        raise ConfigError(describe(error, AgentConfig, path, text)) from error
    return _absolute(config, path.parent.resolve())


def _absolute(config: AgentConfig, base: Path) -> AgentConfig:
    def anchor(value: Path | None) -> Path | None:
        return None if value is None else Path(os.path.normpath(base / value.expanduser()))

    models = {
        name: model.model_copy(update={"artifact": anchor(model.artifact)})
        for name, model in config.models.items()
    }
    changes: dict[str, Any] = {
        "agent": config.agent.model_copy(update={"state": anchor(config.agent.state)}),
        "models": models,
        "view": config.view.model_copy(update={"token_file": anchor(config.view.token_file)}),
    }
    if config.broker:
        files = {"password_file": anchor(config.broker.password_file), "ca": anchor(config.broker.ca)}
        changes["broker"] = config.broker.model_copy(update=files)
    return config.model_copy(update=changes)
