"""Jobs reach one end, and only documents that make sense are carried out."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgec.protocol.errors import InvalidTransition, ProtocolError, VersionConflict
from edgec.protocol.jobs import (
    CommandDocument,
    JobExecution,
    JobState,
    JobUpdate,
    UpdateDocument,
    apply_update,
)

NOW = datetime(2026, 1, 1, tzinfo=UTC)
LATER = NOW + timedelta(minutes=1)
OPEN = {JobState.QUEUED, JobState.IN_PROGRESS}
UPDATE = {
    "operation": "update", "model": "m", "version": "2", "manifest_digest": "sha256:" + "0" * 64,
    "registry": "http://127.0.0.1:1", "repository": "models/m",
}  # fmt: skip


def execution(state: JobState = JobState.QUEUED, **fields: object) -> JobExecution:
    return JobExecution.model_validate({"job_id": "j", "document": {}, "state": state} | fields)


def test_every_state_is_open_or_final() -> None:
    assert {state for state in JobState if not state.terminal} == OPEN


@given(st.lists(st.sampled_from(JobState), max_size=12))
def test_a_job_ends_once(states: list[JobState]) -> None:
    job = execution()
    end = None
    for state in states:
        allowed = state is end or (end is None and state is not JobState.QUEUED)
        try:
            job = apply_update(job, JobUpdate(state=state), NOW)
        except InvalidTransition:
            assert not allowed
        else:
            assert allowed
            end = end or (state if state not in OPEN else None)
        assert job.state is (end or job.state)


def test_a_refused_update_says_what_the_job_is() -> None:
    with pytest.raises(InvalidTransition, match="job j is SUCCEEDED and cannot become IN_PROGRESS"):
        apply_update(execution(JobState.SUCCEEDED), JobUpdate(state=JobState.IN_PROGRESS), NOW)


def test_an_update_counts_versions_and_gathers_details() -> None:
    begun = apply_update(execution(), JobUpdate(state=JobState.IN_PROGRESS, details={"step": "fetch"}), NOW)
    assert (begun.version, begun.started_at, begun.updated_at) == (2, NOW, NOW)
    ended = apply_update(begun, JobUpdate(state=JobState.SUCCEEDED, details={"running_version": "2"}), LATER)
    assert (ended.version, ended.started_at, ended.updated_at) == (3, NOW, LATER)
    assert ended.details == {"step": "fetch", "running_version": "2"}


def test_repeating_the_final_update_changes_nothing() -> None:
    ended = execution(JobState.FAILED, version=5, details={"message": "no"})
    assert apply_update(ended, JobUpdate(state=JobState.FAILED, details={"message": "again"}), NOW) is ended


def test_a_device_that_missed_an_update_is_refused() -> None:
    with pytest.raises(VersionConflict, match="is at version 3, not 2"):
        apply_update(execution(version=3), JobUpdate(state=JobState.IN_PROGRESS, expected_version=2), NOW)
    assert apply_update(
        execution(version=3), JobUpdate(state=JobState.IN_PROGRESS, expected_version=3), NOW
    ).version == 4  # fmt: skip


def test_documents_are_typed_by_their_operation() -> None:
    update = execution(document=UPDATE).parsed()
    assert isinstance(update, UpdateDocument)
    assert (update.model, update.version, update.slot) == ("m", "2", None)
    command = execution(document={"operation": "snapshot", "stream": "gate"}).parsed()
    assert isinstance(command, CommandDocument)
    assert command.stream == "gate"


@pytest.mark.parametrize(
    "change",
    [{"operation": "dance"}, {"model": "../../etc"}, {"manifest_digest": "sha256:short"}, {"registry": "file:///etc"},
     {"repository": "models/../x"}, {"probation_s": -1}, {"max_error_rate": 2}, {"version": ""}],
)  # fmt: skip
def test_a_malformed_document_is_refused_with_its_field(change: dict[str, object]) -> None:
    with pytest.raises(ProtocolError, match=f"^job j: .*{next(iter(change))}"):
        execution(document=UPDATE | change).parsed()
