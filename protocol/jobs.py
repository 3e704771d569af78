"""Jobs, modelled on AWS IoT Jobs: one-off work for a device. Every job reaches a terminal state."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Literal

from pydantic import AwareDatetime, Field, JsonValue, TypeAdapter, ValidationError

from edgec.protocol.codec import Message
from edgec.protocol.errors import InvalidTransition, ProtocolError, VersionConflict
from edgec.protocol.names import Digest, Name

NO_SLOT = "no-slot"
"""`code` in the details of a rejected update: the device has no slot for the model."""


class JobState(StrEnum):
    """State of one job on one device."""

    QUEUED = "QUEUED"
    IN_PROGRESS = "IN_PROGRESS"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"  # attempted; the device still runs the previous model, which `details` names
    TIMED_OUT = "TIMED_OUT"  # the fleet stopped waiting
    REJECTED = "REJECTED"  # the device refused it: wrong target, unknown operation or malformed document
    CANCELED = "CANCELED"  # cancelled by an operator

    @property
    def terminal(self) -> bool:
        """Whether the state is final."""
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
    """Install a model version in a slot."""

    operation: Literal["update"] = "update"
    model: Name
    version: str = Field(min_length=1, max_length=64)
    manifest_digest: Digest
    registry: str = Field(pattern=r"^https?://")
    repository: str = Field(pattern=r"^[a-z0-9]+([._/-][A-Za-z0-9]+)*$|^models/[A-Za-z0-9][A-Za-z0-9._-]*$")
    slot: Name | None = None
    """The slot's name in the agent's configuration; defaults to the model's name."""
    target: str = ""
    """A device of another target rejects the job. If empty, only the artifact's own compatibility check applies."""
    probation_s: float | None = Field(default=None, ge=0, le=86400)
    """How long the new model is on probation before the job ends; defaults to the agent's setting."""
    max_error_rate: float | None = Field(default=None, ge=0, le=1)
    trust: dict[str, JsonValue] = Field(default_factory=dict)
    """What the device's trust check needs in addition to the digest (metadata URL, target path)."""


class CommandDocument(Message):
    """A short operation; commands are idempotent, because each may be delivered twice."""

    operation: Literal["restart-stream", "snapshot", "capture", "report-health", "rollback", "restart"]
    stream: Name | None = None
    slot: Name | None = None
    parameters: dict[str, JsonValue] = Field(default_factory=dict)


JobDocument = Annotated[UpdateDocument | CommandDocument, Field(discriminator="operation")]
_DOCUMENT: TypeAdapter[UpdateDocument | CommandDocument] = TypeAdapter(JobDocument)


class JobExecution(Message):
    """One job on one device, as the fleet stores it."""

    job_id: Name
    state: JobState = JobState.QUEUED
    version: int = Field(default=1, ge=1)
    """Incremented by each update; a device sends the last version it saw with its own update."""
    document: dict[str, JsonValue]
    queued_at: AwareDatetime | None = None
    started_at: AwareDatetime | None = None
    updated_at: AwareDatetime | None = None
    timeout_s: float | None = Field(default=None, gt=0)
    """Seconds after `started_at` until the fleet ends the job as TIMED_OUT."""
    details: dict[str, JsonValue] = Field(default_factory=dict)

    def parsed(self) -> UpdateDocument | CommandDocument:
        """Return the document as its typed message.

        Raises:
            ProtocolError: The operation is unknown or the document is malformed; the device rejects the job.
        """
        try:
            return _DOCUMENT.validate_python(self.document)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            where = ".".join(str(part) for part in first["loc"])
            raise ProtocolError(f"job {self.job_id}: {where or 'document'}: {first['msg']}") from error


class PendingJobs(Message):
    """Retained on `jobs/notify`: all executions in a non-terminal state, oldest first."""

    executions: list[JobExecution] = Field(default_factory=list)
    timestamp: float = 0.0


class JobsGet(Message):
    """Published on `jobs/get` to request that `jobs/notify` be published again."""

    client_token: str = ""


class JobUpdate(Message):
    """A device's progress report, published on `jobs/<job>/update`.

    Attributes:
        details: For an update job: `step` (one of the agent's update states), `message`, and on completion
            `running_version` and `running_digest`, which name the model that now runs, whatever the outcome.
            `rolled_back` distinguishes a failure that was undone from one before anything had changed. `undecided`
            says why a probation that has lasted long enough has not ended, `code` is `NO_SLOT` in a rejection.
    """

    state: JobState
    expected_version: int | None = Field(default=None, ge=1)
    client_token: str = Field(default="", max_length=64)
    details: dict[str, JsonValue] = Field(default_factory=dict)
    time: AwareDatetime | None = None


class JobUpdateAccepted(Message):
    """The fleet's confirmation, published on `jobs/<job>/update/accepted`."""

    job_id: Name
    state: JobState
    version: int = Field(ge=1)
    client_token: str = ""


class JobUpdateRejected(Message):
    """The fleet's refusal, published on `jobs/<job>/update/rejected`: the current state, which the device adopts."""

    job_id: Name
    code: Literal["VersionMismatch", "InvalidStateTransition", "ResourceNotFound", "InvalidJson"]
    message: str
    state: JobState | None = None
    version: int | None = None
    client_token: str = ""


def apply_update(execution: JobExecution, update: JobUpdate, now: AwareDatetime) -> JobExecution:
    """Return `execution` after a device's update; repeating a final update has no effect.

    Raises:
        InvalidTransition: The job is already in another terminal state, or would return to an earlier one.
        VersionConflict: The device has missed an update of this execution.
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
