"""Detections as CloudEvents 1.0 in structured JSON mode (cloudevents.io: spec.md, json-format.md)."""

from __future__ import annotations

from enum import StrEnum
from typing import Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from edgec.protocol.names import Digest, Name

_TOLERANT = ConfigDict(extra="ignore", frozen=True, allow_inf_nan=False)


class Phase(StrEnum):
    """The stage of a track's life that an event reports."""

    NEW = "new"
    UPDATE = "update"
    END = "end"


class ModelRef(BaseModel):
    """The model that produced the result."""

    model_config = _TOLERANT
    name: str = ""
    version: str = ""
    manifest_digest: Digest | None = None


class FrameRef(BaseModel):
    """The frame or audio window that the result refers to."""

    model_config = _TOLERANT
    number: int = Field(ge=0)
    """Number of frames captured since the agent started the source."""
    width: int = Field(default=0, ge=0)
    height: int = Field(default=0, ge=0)
    captured_at: AwareDatetime


class DetectionData(BaseModel):
    """One tracked object, or one rule that fired; boxes are in pixels of the source's frame."""

    model_config = _TOLERANT
    phase: Phase
    kind: Literal["detection", "classification", "keypoints", "segment", "sound", "anomaly", "rule"] = (
        "detection"
    )
    track_id: str
    """Stable from `new` to `end`; unique on the device."""
    label: str
    class_id: int = -1
    score: float = Field(ge=0, le=1)
    best_score: float | None = Field(default=None, ge=0, le=1)
    box: tuple[float, float, float, float] | None = None
    """Left, top, right, bottom."""
    zones: list[str] = Field(default_factory=list)
    rule: str = ""
    value: float | None = None
    """The rule's measurement: dwell time in seconds, a count, or a level in dBFS."""
    started_at: AwareDatetime
    duration_s: float = Field(default=0.0, ge=0)
    frame: FrameRef
    model: ModelRef = Field(default_factory=ModelRef)
    attributes: dict[str, float | str | bool] = Field(default_factory=dict)
    snapshot: str = ""
    """File name of a picture on the device, or its URL on the fleet server once uploaded."""


class DetectionEvent(BaseModel):
    """A CloudEvent, published on `events/<stream>`.

    Attributes:
        id: Never reused, so that receivers can discard duplicates.
        sequence: Incremented with each event of a stream (CloudEvents' sequence extension, an integer as a string):
            a gap means that events were lost.
    """

    model_config = _TOLERANT
    specversion: Literal["1.0"] = "1.0"
    id: str = Field(min_length=1, max_length=128)
    source: str
    """`/edgec/<fleet>/<device>/<stream>`."""
    type: str = Field(pattern=r"^edgec\.[a-z]+\.(new|update|end)$")
    time: AwareDatetime
    subject: str = ""
    datacontenttype: Literal["application/json"] = "application/json"
    dataschema: str = "urn:edgec:schema:v1:detection"
    sequence: str = Field(default="0", pattern=r"^\d{1,20}$")
    data: DetectionData

    @property
    def stream(self) -> Name:
        """Name of the stream, the last part of `source`."""
        return self.source.rpartition("/")[2]

    @staticmethod
    def of(
        data: DetectionData, *, source: str, event_id: str, sequence: int, time: AwareDatetime
    ) -> DetectionEvent:
        """Wrap `data` in an event; its type and subject are derived from `data`."""
        return DetectionEvent(
            id=event_id,
            source=source,
            type=f"edgec.{data.kind}.{data.phase.value}",
            time=time,
            subject=data.track_id,
            sequence=str(sequence),
            data=data,
        )
