"""Samples for retraining: ``POST /api/v1/samples``, one frame that a rule chose, with what the model saw in it.

The request is ``multipart/form-data`` with two parts, ``meta`` (a `SampleMeta` as JSON) and ``image`` (a JPEG of
``width`` × ``height``), under ``Authorization: Bearer <the device's registry token>``. Masks are in the picture
already. The server answers 201, or 200 for an ``id`` that it has; a device keeps the sample and comes again
(``Retry-After`` is obeyed) at 401, 403, 408, 425, 429, 507 and 5xx, and throws it away at any other 4xx: it will not
be better the next time.
"""

from __future__ import annotations

from enum import StrEnum

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from edgec.protocol.names import Digest, Name

SAMPLES_PATH = "/api/v1/samples"
MAX_SAMPLE_BYTES = 8 * 2**20
"""Longest picture either side accepts."""
MAX_PREDICTIONS = 1000

_TOLERANT = ConfigDict(extra="ignore", frozen=True, allow_inf_nan=False, populate_by_name=True)


class SampleReason(StrEnum):
    """The rule that chose the frame."""

    LOW_CONFIDENCE = "low-confidence"  # the best score lies in the band where a model is unsure
    DISAGREEMENT = "disagreement"  # the model and its candidate found different things
    RANDOM = "random"  # a share of all frames, whatever is in them
    REQUEST = "request"  # a job asked for it


class Prediction(BaseModel):
    """One result; a box is left, top, right, bottom in pixels of ``image``."""

    model_config = _TOLERANT
    label: str = Field(max_length=200)
    class_id: int = -1
    score: float = Field(ge=0, le=1)
    box: tuple[float, float, float, float] | None = None


class SecondOpinion(BaseModel):
    """What the candidate model said of the same frame."""

    model_config = _TOLERANT
    model: str = ""
    version: str = ""
    predictions: list[Prediction] = Field(default_factory=list, max_length=MAX_PREDICTIONS)


class SampleMeta(BaseModel):
    """The ``meta`` part."""

    model_config = _TOLERANT
    schema_version: int = Field(default=1, ge=1, alias="schema")
    """``schema`` in JSON; counts compatible additions."""
    id: Name
    """Unique for ever: a repeat after a lost answer is recognised by it."""
    device: Name
    stream: Name
    model: str = ""
    version: str = ""
    manifest_digest: Digest | None = None
    time: AwareDatetime
    """When the frame was captured."""
    reason: SampleReason
    predictions: list[Prediction] = Field(default_factory=list, max_length=MAX_PREDICTIONS)
    other: SecondOpinion | None = None
    job_id: Name | None = None
    """The job that asked."""
    masked: list[str] = Field(default_factory=list)
    """What was blurred: names of zones, and ``face`` once for each face."""
    width: int = Field(ge=1, le=16384)
    height: int = Field(ge=1, le=16384)

    def encode(self) -> bytes:
        """Return the part's JSON."""
        return self.model_dump_json(by_alias=True, exclude_none=True).encode()
