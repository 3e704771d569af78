"""Jobs from the fleet: executed one at a time; each ends once, and a repeated one is answered again."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from datetime import UTC, datetime
from typing import Any

from edgec.device_agent.cloud.outbox import CONTROL, Outbox
from edgec.device_agent.errors import StateError, UpdateError
from edgec.device_agent.updates.deployments import Deployments, Finished, Update
from edgec.device_agent.updates.updater import Updater
from edgec.protocol.codec import decode, encode
from edgec.protocol.errors import ProtocolError
from edgec.protocol.jobs import (
    NO_SLOT,
    CommandDocument,
    JobExecution,
    JobsGet,
    JobState,
    JobUpdate,
    JobUpdateRejected,
    PendingJobs,
    UpdateDocument,
)
from edgec.protocol.topics import Kind, ParsedTopic, Topics

log = logging.getLogger("jobs")

Details = dict[str, Any]
Command = Callable[[str, CommandDocument], "Details | Future[Details]"]
"""Carries out a job's command; returns details, or raises `UpdateError`, at once or through the future."""


class JobReporter:
    """Reports the state of jobs through the outbox."""

    def __init__(self, topics: Topics, deployments: Deployments, outbox: Outbox) -> None:
        self._topics, self._deployments, self._outbox = topics, deployments, outbox
        self._told = 0
        self.step = ""
        """Step of the current update."""

    def progress(self, update: Update, details: dict[str, Any]) -> None:
        """Report a step through the outbox."""
        self._told += 1
        self.step = update.step.value
        body = {"step": update.step.value, "slot": update.slot, **details}
        mark = f"{update.job_id}-{update.step.value}-{update.interruptions}-{self._told}"
        self.send(update.job_id, JobState.IN_PROGRESS, body, mark)

    def finished(self, done: Finished) -> None:
        """Report a job's end; it counts as reported once the outbox has it on disk."""
        self.step = ""
        self.send(done.job_id, done.state, done.details, f"{done.job_id}-{done.state.value}")
        if self._outbox.flush():
            self._deployments.mark_reported(done.job_id)

    def report_again(self) -> None:
        """Report results again that may not have reached the outbox before this start."""
        for done in self._deployments.unreported():
            self.finished(done)

    def send(self, job_id: str, state: JobState, details: dict[str, Any], mark: str) -> None:
        """Put a job's state into the outbox; a repeated `mark` is sent once."""
        now = datetime.now(UTC)
        payload = encode(JobUpdate(state=state, details=details, time=now))
        message_id = f"job-{mark or f'{job_id}-{state.value}-{now.timestamp()}'}"
        self._outbox.put(self._topics.job_update(job_id), payload, message_id, lane=CONTROL)


class JobDesk:
    """Works through the list of pending jobs.

    Args:
        topics: the device's.
        deployments: the update under way, and the jobs that ended.
        reports: sends reports to the fleet.
        updater: carries updates out.
        target: the device's; empty accepts every update.
        slot_of: returns the slot that an update is for.
        command: carries a command out.
        slots: returns the names of all slots.
    """

    def __init__(
        self,
        topics: Topics,
        deployments: Deployments,
        reports: JobReporter,
        updater: Updater,
        target: str,
        slot_of: Callable[[UpdateDocument], str | None],
        command: Command,
        slots: Callable[[], Iterable[str]] = tuple,
    ) -> None:
        self._topics, self._deployments, self._reports = topics, deployments, reports
        self._updater, self._target, self._slot_of, self._command = updater, target, slot_of, command
        self._slots = slots
        self._pending: list[JobExecution] = []
        self._running: set[str] = set()
        """Commands that are still running."""

    @property
    def current(self) -> str:
        """The job under way."""
        update = self._deployments.update
        return update.job_id if update else ""

    def request(self) -> tuple[str, bytes]:
        """Return the message that requests the list from the fleet."""
        return self._topics.jobs_get, encode(JobsGet())

    def receive(self, topic: ParsedTopic, payload: bytes) -> None:
        """Handle a message below `jobs/`; malformed ones are logged and dropped."""
        try:
            if topic.kind is Kind.JOBS_NOTIFY:
                self._pending = decode(PendingJobs, payload).executions
                self._cancel_withdrawn()
                self.next()
            elif topic.kind is Kind.JOB_UPDATE_REJECTED:
                self._rejected(decode(JobUpdateRejected, payload))
        except ProtocolError as error:
            log.warning("malformed message on jobs/: %s", error)

    def next(self) -> None:
        """Begin the oldest job that can begin."""
        for execution in self._pending:
            if execution.state.terminal or execution.job_id in (self.current, *self._running):
                continue
            if done := self._deployments.finished(execution.job_id):
                self._answer_again(execution, done)
                continue
            if self._begin(execution):
                return

    def _begin(self, execution: JobExecution) -> bool:
        """Begin a job; returns whether it keeps the device busy."""
        try:
            document = execution.parsed()
        except ProtocolError as error:
            self._end(execution, JobState.REJECTED, str(error))
            return False
        if isinstance(document, CommandDocument):
            if document.operation == "rollback" and self._deployments.update is not None:
                return True  # it waits for the update: both change what slots run
            self._carry_out(execution, document)
            return False
        if self._deployments.update is not None:
            return True
        slot = self._slot_of(document)
        if slot is None:
            self._end(execution, JobState.REJECTED, self._no_slot(document), {"code": NO_SLOT})
        elif document.target and self._target and document.target != self._target:
            self._end(
                execution,
                JobState.REJECTED,
                f"the update is for {document.target}, this device is {self._target}",
            )
        else:
            return self._start_update(execution, document, slot)
        return False

    def _no_slot(self, document: UpdateDocument) -> str:
        wanted = f"slot {document.slot}" if document.slot else f"slot for the model {document.model}"
        have = ", ".join(self._slots()) or "none"
        return f"this device has no {wanted}; its slots: {have}"

    def _start_update(self, execution: JobExecution, document: UpdateDocument, slot: str) -> bool:
        update = Update(execution.job_id, slot, document.model_dump(mode="json"))
        try:
            self._updater.start(update)
        except StateError as error:
            # Without a durable record the device must not begin; the fleet sees why.
            self._reports.send(
                execution.job_id, JobState.FAILED, {"message": str(error), "rolled_back": False}, ""
            )
            return False
        log.info("job %s: %s %s for slot %s", execution.job_id, document.model, document.version, slot)
        return True

    def _carry_out(self, execution: JobExecution, document: CommandDocument) -> None:
        try:
            result = self._command(execution.job_id, document)
        except UpdateError as error:
            self._end(execution, JobState.FAILED, str(error))
            return
        if not isinstance(result, Future):
            self._end(execution, JobState.SUCCEEDED, "done", result)
            return
        self._running.add(execution.job_id)
        self._reports.send(execution.job_id, JobState.IN_PROGRESS, {}, f"{execution.job_id}-begun")

        def ended(done: Future[Details]) -> None:
            self._running.discard(execution.job_id)
            error = done.exception()
            if error is None:
                self._end(execution, JobState.SUCCEEDED, "done", done.result())
            else:
                self._end(execution, JobState.FAILED, str(error))

        result.add_done_callback(ended)

    def _end(
        self, execution: JobExecution, state: JobState, message: str, details: dict[str, Any] | None = None
    ) -> None:
        done = Finished(execution.job_id, state, {"message": message, **(details or {})})
        try:
            self._deployments.finish(done)
        except StateError as error:
            log.error("%s; the job's end is reported from memory", error)
            self._reports.send(done.job_id, done.state, done.details, "")
            return
        self._reports.finished(done)

    def _answer_again(self, execution: JobExecution, done: Finished) -> None:
        """Report again: the fleet lists a job that has ended here, so its result was lost or is on its way."""
        mark = f"{done.job_id}-{done.state.value}-v{execution.version}"
        self._reports.send(done.job_id, done.state, done.details, mark)

    def _cancel_withdrawn(self) -> None:
        if self.current and self.current not in {execution.job_id for execution in self._pending}:
            log.info("job %s was cancelled by the fleet", self.current)
            self._updater.cancel(self.current)

    def _rejected(self, answer: JobUpdateRejected) -> None:
        if answer.job_id == self.current and answer.state is not None and answer.state.terminal:
            log.info("job %s has ended as %s at the fleet", answer.job_id, answer.state.value)
            self._updater.cancel(answer.job_id)
