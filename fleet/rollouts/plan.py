"""Plans of rollouts, and the states of a rollout and of its members."""

from __future__ import annotations

from enum import StrEnum
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator


class RolloutState(StrEnum):
    """The states of a rollout."""

    RUNNING = "RUNNING"
    PAUSED = "PAUSED"
    AWAITING_APPROVAL = "AWAITING_APPROVAL"
    ROLLING_BACK = "ROLLING_BACK"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    ROLLED_BACK = "ROLLED_BACK"
    ABORTED = "ABORTED"

    @property
    def ended(self) -> bool:
        """Whether the state is final."""
        return self in (
            RolloutState.SUCCEEDED,
            RolloutState.FAILED,
            RolloutState.ROLLED_BACK,
            RolloutState.ABORTED,
        )


class MemberState(StrEnum):
    """The states of a device in a rollout."""

    WAITING = "WAITING"
    ACTIVE = "ACTIVE"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    UNREACHED = "UNREACHED"  # never started the job in time
    SKIPPED = "SKIPPED"  # nothing to do, no artifact for its target, or no place for the model
    CANCELED = "CANCELED"
    REVERTING = "REVERTING"
    REVERTED = "REVERTED"
    REVERT_FAILED = "REVERT_FAILED"


class Stage(BaseModel):
    """A part of the devices: a share of all, a number, or named ones. Stages are cumulative."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    percent: float | None = Field(None, gt=0, le=100)
    count: int | None = Field(None, ge=1)
    devices: tuple[str, ...] = ()
    soak_s: float = Field(0.0, ge=0, le=30 * 86400)
    approval: bool = False

    @model_validator(mode="after")
    def _one(self) -> Stage:
        if sum((self.percent is not None, self.count is not None, bool(self.devices))) != 1:
            raise ValueError("a stage has exactly one of percent, count and devices")
        return self


class ModelCriteria(BaseModel):
    """How much worse than the others updated devices may be. See `edgec.fleet.rollouts.judge`."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    error_rate: float | None = Field(
        None, ge=0, lt=1, description="Tolerated increase of the share of failed inferences."
    )
    latency_ratio: float | None = Field(
        None, ge=1, le=100, description="Tolerated latency ratio; 1.5 means half as much again."
    )
    event_rate_ratio: float | None = Field(
        None, ge=1, le=1000, description="Tolerated factor, up or down, in events."
    )
    score_shift: float | None = Field(
        None, gt=0, le=1, description="Tolerated change of the mean score, up or down."
    )
    alpha: float = Field(
        0.01, gt=0, lt=0.5, description="Probability of stopping a good version, over the whole rollout."
    )


ALL_AT_ONCE = (Stage.model_validate({"percent": 100}),)


class Plan(BaseModel):
    """How a rollout proceeds. Times are in seconds, shares in percent of the devices that finished."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    stages: tuple[Stage, ...] = Field(ALL_AT_ONCE, min_length=1, max_length=20)
    max_failed_percent: float = Field(
        20.0, ge=0, le=100, description="Failures beyond this share stop the rollout."
    )
    min_success_percent: float = Field(
        80.0, ge=0, le=100, description="Share of successes that a stage needs to pass."
    )
    on_failure: Literal["rollback", "stop"] = "rollback"
    job_timeout_s: float = Field(900.0, gt=0, le=7 * 86400)
    retries: int = Field(0, ge=0, le=10)
    rate_per_minute: float | None = Field(
        None, gt=0, le=1e6, description="Maximum number of jobs started per minute."
    )
    deadline_s: float = Field(86400.0, gt=0, le=90 * 86400)
    criteria: ModelCriteria | None = None
    probation_s: float | None = Field(None, ge=0, le=86400)
    repair: bool = Field(
        False,
        description="Send it also to devices that run it: they check their copy and fetch what is damaged.",
    )

    @model_validator(mode="after")
    def _grow(self) -> Plan:
        shares = [stage.percent for stage in self.stages if stage.percent is not None]
        if shares != sorted(shares):
            raise ValueError(
                "the percentages of stages must not decrease: each is the share reached at its end"
            )
        return self
