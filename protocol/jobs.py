"""Jobs, after AWS IoT's: what a device is asked to do once, and how that ends. A job always ends."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Literal

from pydantic import AwareDatetime, Field, JsonValue, TypeAdapter, ValidationError

from edgec.protocol.codec import Message
from edgec.protocol.errors import InvalidTransition, ProtocolError, VersionConflict
from edgec.protocol.names import Digest, Name


class JobState(StrEnum):
    """The life of one job on one device."""

    QUEUED = "QUEUED"
    IN_PROGRESS = "IN_PROGRESS"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"  # tried; the device runs what it ran before, and the details say so
    TIMED_OUT = "TIMED_OUT"  # the fleet gave up waiting
    REJECTED = "REJECTED"  # not for this device: wrong target, unknown operation, malformed
    CANCELED = "CANCELED"  # the operator took it back

    @property
    def terminal(self) -> bool:
        """Whether nothing follows."""
        return not JOB_TRANSITIONS[self]


_ENDS = frozenset(
    {JobState.SUCCEEDED, JobState.FAILED, JobState.TIMED_OUT, JobState.REJECTED, JobState.CANCELED}
)
JOB_TRANSITIONS: dict[JobState, frozenset[JobState]] = {
    JobState.QUEUED: _ENDS | {JobState.IN_PROGRESS},
    JobState.IN_PROGRESS: _ENDS | {JobState.IN_PROGRESS},
    **{end: frozenset() for end in _ENDS},
}


class UpdateDocument(Message):
    """Run this model in this slot."""

    operation: Literal["update"] = "update"
    model: Name
    version: str = Field(min_length=1, max_length=64)
    manifest_digest: Digest
    registry: str = Field(pattern=r"^https?://")
    repository: str = Field(pattern=r"^[a-z0-9]+([._/-][A-Za-z0-9]+)*$|^models/[A-Za-z0-9][A-Za-z0-9._-]*$")
    slot: Name | None = None
    """The model's name in the agent's configuration; the model's own name when absent."""
    target: str = ""
    """A device of another target rejects the job; empty means: the artifact's own check decides."""
    probation_s: float | None = Field(default=None, ge=0, le=86400)
    """How long the new model is watched before the job ends; the agent's setting when absent."""
    max_error_rate: float | None = Field(default=None, ge=0, le=1)
    trust: dict[str, JsonValue] = Field(default_factory=dict)
    """What the device's trust check needs beside the digest (metadata URL, target path)."""


class CommandDocument(Message):
    """Do something small; each command may arrive twice and does its work once."""

    operation: Literal["restart-stream", "snapshot", "capture", "report-health", "rollback", "restart"]
    stream: Name | None = None
    slot: Name | None = None
    parameters: dict[str, JsonValue] = Field(default_factory=dict)


JobDocument = Annotated[UpdateDocument | CommandDocument, Field(discriminator="operation")]
_DOCUMENT: TypeAdapter[UpdateDocument | CommandDocument] = TypeAdapter(JobDocument)


class JobExecution(Message):
    """One job on one device."""

    job_id: Name
    state: JobState = JobState.QUEUED
    version: int = Field(default=1, ge=1)
    """Counts the updates of this execution; a device sends the one it knows with its update."""
    document: dict[str, JsonValue]
    queued_at: AwareDatetime | None = None
    started_at: AwareDatetime | None = None
    updated_at: AwareDatetime | None = None
    timeout_s: float | None = Field(default=None, gt=0)
    """Seconds from ``started_at`` after which the fleet ends it as TIMED_OUT."""
    details: dict[str, JsonValue] = Field(default_factory=dict)

    def parsed(self) -> UpdateDocument | CommandDocument:
        """Return the typed document.

        Raises:
            ProtocolError: an unknown operation or a malformed document; the device rejects the job.
        """
        try:
            return _DOCUMENT.validate_python(self.document)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            where = ".".join(str(part) for part in first["loc"])
            raise ProtocolError(f"job {self.job_id}: {where or 'document'}: {first['msg']}") from error


class PendingJobs(Message):
    """Retained on ``jobs/notify``: all executions that have not ended, oldest first."""

    executions: list[JobExecution] = Field(default_factory=list)
    timestamp: float = 0.0


class JobsGet(Message):
    """On ``jobs/get``: publish ``jobs/notify`` again, please."""

    client_token: str = ""


class JobUpdate(Message):
    """On ``jobs/<job>/update``.

    ``details`` of an update job: ``step`` (where it stands: see the agent's states), ``message``, and at the
    end ``running_version`` and ``running_digest``: what the device runs now, whatever the outcome was;
    ``rolled_back`` tells a failure that left the device as it was from one before anything was touched.
    """

    state: JobState
    expected_version: int | None = Field(default=None, ge=1)
    client_token: str = Field(default="", max_length=64)
    details: dict[str, JsonValue] = Field(default_factory=dict)
    time: AwareDatetime | None = None


class JobUpdateAccepted(Message):
    """On ``jobs/<job>/update/accepted``."""

    job_id: Name
    state: JobState
    version: int = Field(ge=1)
    client_token: str = ""


class JobUpdateRejected(Message):
    """On ``jobs/<job>/update/rejected``: the execution as it is, so that the device can give way."""

    job_id: Name
    code: Literal["VersionMismatch", "InvalidStateTransition", "ResourceNotFound", "InvalidJson"]
    message: str
    state: JobState | None = None
    version: int | None = None
    client_token: str = ""


def apply_update(execution: JobExecution, update: JobUpdate, now: AwareDatetime) -> JobExecution:
    """Return the execution after a device's update; repeating a final update changes nothing.

    Raises:
        InvalidTransition: the job has ended otherwise, or would go back.
        VersionConflict: the device has missed an update of the same execution.
    """
    if execution.state.terminal and update.state is execution.state:
        return execution
    if update.state not in JOB_TRANSITIONS[execution.state]:
        raise InvalidTransition(
            f"job {execution.job_id} is {execution.state.value} and cannot become {update.state.value}"
        )
    if update.expected_version is not None and update.expected_version != execution.version:
        raise VersionConflict(
            f"job {execution.job_id} is at version {execution.version}, not {update.expected_version}"
        )
    started = execution.started_at or (now if update.state is JobState.IN_PROGRESS else None)
    return execution.model_copy(
        update={
            "state": update.state,
            "version": execution.version + 1,
            "started_at": started,
            "updated_at": now,
            "details": {**execution.details, **update.details},
        }
    )
