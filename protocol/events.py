"""Detections as CloudEvents 1.0 in structured JSON mode (cloudevents.io: spec.md, json-format.md)."""

from __future__ import annotations

from enum import StrEnum
from typing import Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from edgec.protocol.names import Digest, Name

_TOLERANT = ConfigDict(extra="ignore", frozen=True, allow_inf_nan=False)


class Phase(StrEnum):
    """Where in its life the thing that is reported stands."""

    NEW = "new"
    UPDATE = "update"
    END = "end"


class ModelRef(BaseModel):
    """The model that said so."""

    model_config = _TOLERANT
    name: str = ""
    version: str = ""
    manifest_digest: Digest | None = None


class FrameRef(BaseModel):
    """The frame, or the stretch of sound, that it was said of."""

    model_config = _TOLERANT
    number: int = Field(ge=0)
    """Counts what the source captured since the agent started it."""
    width: int = Field(default=0, ge=0)
    height: int = Field(default=0, ge=0)
    captured_at: AwareDatetime


class DetectionData(BaseModel):
    """One tracked thing, or one crossing of a rule; boxes are pixels of the source's frame."""

    model_config = _TOLERANT
    phase: Phase
    kind: Literal["detection", "classification", "keypoints", "segment", "sound", "anomaly", "rule"] = (
        "detection"
    )
    track_id: str
    """Stable from ``new`` to ``end``; unique within a device."""
    label: str
    class_id: int = -1
    score: float = Field(ge=0, le=1)
    best_score: float | None = Field(default=None, ge=0, le=1)
    box: tuple[float, float, float, float] | None = None
    """Left, top, right, bottom."""
    zones: list[str] = Field(default_factory=list)
    rule: str = ""
    value: float | None = None
    """What the rule measured: seconds of dwell, a count, dBFS."""
    started_at: AwareDatetime
    duration_s: float = Field(default=0.0, ge=0)
    frame: FrameRef
    model: ModelRef = Field(default_factory=ModelRef)
    attributes: dict[str, float | str | bool] = Field(default_factory=dict)
    snapshot: str = ""
    """Name of a picture kept on the device, or its URL on the fleet server once uploaded."""


class DetectionEvent(BaseModel):
    """Published on ``events/<stream>``; ``id`` is unique for ever, so a repeat is recognised.

    ``sequence`` grows by one with each event of a stream (CloudEvents' sequence extension, as an integer in
    a string): a gap is a loss.
    """

    model_config = _TOLERANT
    specversion: Literal["1.0"] = "1.0"
    id: str = Field(min_length=1, max_length=128)
    source: str
    """``/edgec/<fleet>/<device>/<stream>``."""
    type: str = Field(pattern=r"^edgec\.[a-z]+\.(new|update|end)$")
    time: AwareDatetime
    subject: str = ""
    datacontenttype: Literal["application/json"] = "application/json"
    dataschema: str = "urn:edgec:schema:v1:detection"
    sequence: str = Field(default="0", pattern=r"^\d{1,20}$")
    data: DetectionData

    @property
    def stream(self) -> Name:
        """The stream's name, the last part of ``source``."""
        return self.source.rpartition("/")[2]

    @staticmethod
    def of(
        data: DetectionData, *, source: str, event_id: str, sequence: int, time: AwareDatetime
    ) -> DetectionEvent:
        """Wrap ``data``: the type and subject follow from it."""
        return DetectionEvent(
            id=event_id,
            source=source,
            type=f"edgec.{data.kind}.{data.phase.value}",
            time=time,
            subject=data.track_id,
            sequence=str(sequence),
            data=data,
        )
