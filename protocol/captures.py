"""Captures for retraining: one frame that a rule selected, with the model's predictions, uploaded over HTTP.

The request is `multipart/form-data` with two parts, `meta` (a `CaptureMeta` as JSON) and `image` (a JPEG of
`width` × `height`), authorised with the device's registry token (`Authorization: Bearer …`). The image is already
masked. The server answers 201, or 200 for an `id` that it has already stored. On 401, 403, 404, 408, 425, 429, 507
and 5xx the device keeps the capture and retries, honouring `Retry-After`. Any other 4xx is final: the same request
would fail again, so the device drops the capture.

Older agents upload to `/api/v1/samples`, which the server still accepts. A server from before the renaming answers 404
to a new agent, which keeps its captures until the server is updated.
"""

from __future__ import annotations

from enum import StrEnum

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from edgec.protocol.names import Digest, Name

CAPTURES_PATH = "/api/v1/captures"
MAX_CAPTURE_BYTES = 8 * 2**20
"""Largest image that either side accepts."""
MAX_PREDICTIONS = 1000

_TOLERANT = ConfigDict(extra="ignore", frozen=True, allow_inf_nan=False, populate_by_name=True)


class CaptureReason(StrEnum):
    """The rule that selected the frame."""

    LOW_CONFIDENCE = "low-confidence"  # the best score lies in the band where the model is unsure
    DISAGREEMENT = "disagreement"  # the model and its candidate found different things
    RANDOM = "random"  # a fixed share of all frames, whatever they show
    REQUEST = "request"  # requested by a job


class Prediction(BaseModel):
    """One prediction; `box` is left, top, right, bottom in pixels of `image`."""

    model_config = _TOLERANT
    label: str = Field(max_length=200)
    class_id: int = -1
    score: float = Field(ge=0, le=1)
    box: tuple[float, float, float, float] | None = None


class SecondOpinion(BaseModel):
    """The candidate model's predictions for the same frame."""

    model_config = _TOLERANT
    model: str = ""
    version: str = ""
    predictions: list[Prediction] = Field(default_factory=list, max_length=MAX_PREDICTIONS)


class CaptureMeta(BaseModel):
    """The `meta` part of the upload."""

    model_config = _TOLERANT
    schema_version: int = Field(default=1, ge=1, alias="schema")
    """Named `schema` in the JSON; incremented by compatible additions."""
    id: Name
    """Never reused, so that the server recognises a retry after a lost response."""
    device: Name
    stream: Name
    model: str = ""
    version: str = ""
    manifest_digest: Digest | None = None
    time: AwareDatetime
    """When the frame was captured."""
    reason: CaptureReason
    predictions: list[Prediction] = Field(default_factory=list, max_length=MAX_PREDICTIONS)
    other: SecondOpinion | None = None
    job_id: Name | None = None
    """The job that requested the capture."""
    masked: list[str] = Field(default_factory=list)
    """Blurred regions: the names of zones, and `face` once per face."""
    width: int = Field(ge=1, le=16384)
    height: int = Field(ge=1, le=16384)

    def encode(self) -> bytes:
        """Return the JSON of the part."""
        return self.model_dump_json(by_alias=True, exclude_none=True).encode()
