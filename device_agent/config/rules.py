"""Configuration of a pipeline's gate, tracker, zones and rules."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from edgec.protocol.names import Name

Point = tuple[float, float]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Gate(_Section):
    """Withholds frames from the model while nothing moves, or nothing is heard."""

    kind: Literal["motion", "level"] = "motion"
    threshold: float = Field(default=12.0, gt=0, le=255)
    """Grey levels by which a pixel must change to count (motion)."""
    area: float = Field(default=0.002, gt=0, le=1)
    """Share of the picture that must change (motion)."""
    level_dbfs: float = Field(default=-45.0, le=0)
    """Loudness at which sound passes (level)."""
    hold_s: float = Field(default=2.0, ge=0)
    """How long frames still pass after the last motion or sound."""
    refresh_s: float = Field(default=30.0, gt=0)
    """At least one frame per interval passes, so that still objects are found, too."""


class Tracker(_Section):
    """Joins detections of consecutive frames into tracks with stable ids."""

    enabled: bool = True
    iou: float = Field(default=0.25, gt=0, lt=1)
    """Minimum overlap (IoU) of a track's predicted box with a detection."""
    confirm: int = Field(default=3, ge=1, le=100)
    """Detections before a track is reported."""
    lost_s: float = Field(default=1.5, gt=0)
    """A track ends when nothing has matched it for this long."""
    high: float = Field(default=0.5, ge=0, le=1)
    """Minimum score for a detection to begin a track; lower ones only continue one (ByteTrack)."""


class Zone(_Section):
    """A polygon in the picture."""

    name: Name
    polygon: list[Point] = Field(min_length=3)
    """Corners as shares of width and height, 0 to 1, from the top left."""

    @model_validator(mode="after")
    def _inside(self) -> Zone:
        if any(not 0 <= value <= 1 for point in self.polygon for value in point):
            raise ValueError("a polygon's corners are shares of width and height, from 0 to 1")
        return self


class Rule(_Section):
    """A rule that turns tracks into events of its own."""

    name: Name
    kind: Literal["presence", "dwell", "line", "count", "score"]
    labels: list[str] | None = None
    zone: Name | None = None
    line: tuple[Point, Point] | None = None
    """Start and end, as shares of width and height; crossing to the line's left counts as `in`."""
    seconds: float = Field(default=5.0, gt=0)
    """Time in the zone before `dwell` fires."""
    at_least: int = Field(default=1, ge=1)
    """Number of tracks in the zone at which `count` fires."""
    score: float = Field(default=0.5, ge=0, le=1)
    n: int = Field(default=3, ge=1)
    m: int = Field(default=5, ge=1, le=1000)
    """`score` fires when `n` of the last `m` frames reached the score."""

    @model_validator(mode="after")
    def _complete(self) -> Rule:
        if self.kind == "line" and self.line is None:
            raise ValueError(f"rule {self.name} of kind line needs `line = [[x1, y1], [x2, y2]]`")
        if self.n > self.m:
            raise ValueError(f"rule {self.name}: n ({self.n}) is larger than m ({self.m})")
        return self
