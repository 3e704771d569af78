"""Jobs: carried out one at a time, each ended once, a repeated one answered again."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest

from edgec.device_agent.cloud.jobs import JobDesk, JobReporter
from edgec.device_agent.cloud.outbox import Outbox
from edgec.device_agent.errors import StateError, UpdateError
from edgec.device_agent.updates.deployments import Deployments, Finished, SlotState, Update, Version
from edgec.protocol.codec import decode, encode
from edgec.protocol.jobs import CommandDocument, JobExecution, JobState, JobUpdate, PendingJobs
from edgec.protocol.topics import Kind, ParsedTopic, Topics, parse

DIGEST = "sha256:" + "1" * 64
UPDATE = {
    "operation": "update", "model": "detector", "version": "2", "registry": "http://r", "repository": "models/d",
    "manifest_digest": DIGEST,
}  # fmt: skip


class FakeUpdater:
    """Accepts updates and never finishes them."""

    def __init__(self, deployments: Deployments) -> None:
        self.deployments, self.cancelled, self.error = deployments, [], ""

    def start(self, update: Update) -> None:
        if self.error:
            raise StateError(self.error)
        self.deployments.accept(update)

    def cancel(self, job_id: str) -> None:
        self.cancelled.append(job_id)


class Desk:
    """A desk with its parts, and what it told the fleet."""

    def __init__(self, folder: Path) -> None:
        self.topics = Topics("f", "d")
        self.deployments = Deployments(folder / "deployments.json")
        self.outbox = Outbox(folder / "outbox.db", 2**20, 1e6)
        self.reports = JobReporter(self.topics, self.deployments, self.outbox)
        self.updater = FakeUpdater(self.deployments)
        self.command: Callable[[str, CommandDocument], Any] = lambda job_id, document: {}
        self.desk = JobDesk(
            self.topics, self.deployments, self.reports, self.updater, "rpi5",  # type: ignore[arg-type]
            lambda document: "m" if document.model == "detector" else None,
            lambda job_id, document: self.command(job_id, document),
        )  # fmt: skip

    def pending(self, *jobs: tuple[str, dict[str, Any]], version: int = 1) -> None:
        executions = [JobExecution(job_id=name, document=body, version=version) for name, body in jobs]
        topic = ParsedTopic("f", "d", Kind.JOBS_NOTIFY, "")
        self.desk.receive(topic, encode(PendingJobs(executions=executions)))

    def told(self) -> list[tuple[str, JobState, str]]:
        assert self.outbox.flush(60)
        found = []
        for entry in self.outbox.peek(100, set()):
            update = decode(JobUpdate, entry.payload)
            found.append((parse(entry.topic).name, update.state, str(update.details.get("message", ""))))
            self.outbox.acknowledge(entry.key)
        return found


@pytest.fixture
def box(tmp_path: Path) -> Iterator[Desk]:
    desk = Desk(tmp_path)
    yield desk
    desk.outbox.close()


def test_a_command_is_carried_out_once_and_answered_again(box: Desk) -> None:
    calls: list[str] = []
    box.command = lambda job_id, document: calls.append(document.operation) or {}
    box.pending(("j1", {"operation": "restart"}))
    box.pending(("j1", {"operation": "restart"}), version=2)
    assert calls == ["restart"]
    assert [(name, state) for name, state, _ in box.told()] == [("j1", JobState.SUCCEEDED)] * 2


def test_a_command_that_takes_its_time_is_in_progress(box: Desk) -> None:
    later: Future[dict[str, Any]] = Future()
    box.command = lambda job_id, document: later
    box.pending(("j1", {"operation": "snapshot"}))
    box.pending(("j1", {"operation": "snapshot"}))
    assert [state for _, state, _ in box.told()] == [JobState.IN_PROGRESS]
    later.set_exception(UpdateError("no picture was taken"))
    assert box.told() == [("j1", JobState.FAILED, "no picture was taken")]


@pytest.mark.parametrize(
    ("document", "state", "message"),
    [
        ({"operation": "dance"}, JobState.REJECTED, "job j1"),
        (UPDATE | {"model": "faces"}, JobState.REJECTED, "no slot for the model faces"),
        (UPDATE | {"target": "jetson"}, JobState.REJECTED, "this device is rpi5"),
    ],
)
def test_what_cannot_be_done_here_is_rejected(
    box: Desk, document: dict[str, Any], state: JobState, message: str
) -> None:
    box.pending(("j1", document))
    [(name, told, text)] = box.told()
    assert (name, told) == ("j1", state)
    assert message in text
    assert box.deployments.update is None


def test_a_model_that_runs_already_is_checked_by_the_updater(box: Desk) -> None:
    """Its copy may be damaged: only the updater knows."""
    box.deployments.set_slot("m", SlotState(Version(DIGEST, "detector", "2")))
    box.pending(("j1", UPDATE))
    assert box.told() == []
    assert box.deployments.update is not None


def test_a_rollback_waits_for_the_update_under_way(box: Desk) -> None:
    calls: list[str] = []
    box.command = lambda job_id, document: calls.append(document.operation) or {}
    box.pending(("j1", UPDATE), ("j2", {"operation": "rollback"}), ("j3", {"operation": "restart"}))
    assert calls == []
    box.deployments.fail(JobState.FAILED, {"message": "it failed"})
    box.desk.next()
    assert calls == ["rollback", "restart"]


def test_updates_are_taken_one_at_a_time_and_commands_beside_them(box: Desk) -> None:
    box.pending(("j1", UPDATE), ("j2", UPDATE), ("j3", {"operation": "restart"}))
    assert box.desk.current == "j1"
    assert box.told() == []
    done = box.deployments.commit({"message": "the new model runs"})
    box.reports.finished(done)
    box.desk.next()
    assert box.told() == [
        ("j1", JobState.SUCCEEDED, "the new model runs"),
        ("j1", JobState.SUCCEEDED, "the new model runs"),
    ]
    assert box.desk.current == "j2", "the same model again: the updater checks its copy"
    box.deployments.commit({"message": "it is already running"})
    box.desk.next()
    assert box.told()[-1] == ("j3", JobState.SUCCEEDED, "done")


def test_a_withdrawn_job_is_cancelled(box: Desk) -> None:
    box.pending(("j1", UPDATE))
    assert box.updater.cancelled == []
    box.pending()
    assert box.updater.cancelled == ["j1"]


def test_without_a_durable_record_an_update_does_not_begin(box: Desk) -> None:
    box.updater.error = "the disk is full"
    box.pending(("j1", UPDATE))
    assert box.told() == [("j1", JobState.FAILED, "the disk is full")]
    assert box.deployments.finished("j1") is None


def test_unreported_results_are_told_after_a_start(box: Desk) -> None:
    box.deployments.finish(Finished("j1", JobState.SUCCEEDED, {"message": "done"}))
    box.reports.report_again()
    box.reports.report_again()
    assert box.told() == [("j1", JobState.SUCCEEDED, "done")]
    assert box.deployments.unreported() == []


def test_malformed_messages_are_dropped(box: Desk, caplog: pytest.LogCaptureFixture) -> None:
    box.desk.receive(ParsedTopic("f", "d", Kind.JOBS_NOTIFY, ""), b'{"executions": 7}')
    assert "malformed message" in caplog.text
