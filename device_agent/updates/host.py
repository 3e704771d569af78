"""Requests of the updater's thread to the supervisor, passed to the supervisor's loop."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, Protocol, TypeVar

from edgec.device_agent.inference.messages import Answer, ReleaseModels, Report, RevertModel
from edgec.device_agent.inference.runner import Inference
from edgec.device_agent.process.loop import Loop
from edgec.device_agent.updates.catalog import Catalog
from edgec.device_agent.updates.deployments import Finished, Update
from edgec.device_agent.updates.messages import TrialResult
from edgec.device_agent.updates.trial_runner import TrialRunner

Result = TypeVar("Result")
Reply = TypeVar("Reply", Answer, Report, TrialResult)


class JobReports(Protocol):
    """Reports the state of jobs to the fleet."""

    def progress(self, update: Update, details: dict[str, Any]) -> None:
        """Report how far the update has come."""

    def finished(self, done: Finished) -> None:
        """Report how the job ended."""


class UpdateHost:
    """`edgec.device_agent.updates.updater.Host` on top of the loop and the inference process."""

    def __init__(
        self,
        loop: Loop,
        inference: Inference,
        catalog: Catalog,
        reports: JobReports,
        on_change: Callable[[], None],
    ) -> None:
        self._loop, self._inference, self._catalog = loop, inference, catalog
        self._reports, self._on_change = reports, on_change
        self._trial = TrialRunner(loop)

    def trial(self, slot: str, digest: str, timeout_s: float) -> Future[TrialResult]:
        """Run a model in a process of its own, killed when it takes too long."""
        model = self._catalog.stored(slot, digest)
        return self._in_loop(lambda: self._trial.begin(model, timeout_s), lambda result: result)

    def load_beside(self, slot: str, digest: str) -> Future[str]:
        """Load a model beside the running one, once the slot's own is loaded."""
        future: Future[str] = Future()

        def begin() -> None:
            self._inference.load(slot, self._catalog.stored(slot, digest)).add_done_callback(
                lambda done: _pass_on(done, future, lambda answer: _accepted(answer).key)
            )

        self._loop.post(lambda: self._inference.when_settled(slot, begin))
        return future

    def swap(self, slot: str, token: str) -> Future[None]:
        """Make the loaded model the active one."""
        return self._in_loop(lambda: self._inference.swap(slot, token), _no_result)

    def revert(self, slot: str) -> Future[None]:
        """Reactivate the old model; if it is no longer loaded, load what the slot has to run."""
        result: Future[None] = Future()

        def begin() -> None:
            def answered(done: Future[Answer]) -> None:
                if done.exception() is None and done.result().error:
                    self._inference.load_slot(slot)
                result.set_result(None)

            self._inference.request(RevertModel(slot)).add_done_callback(answered)

        self._loop.post(begin)
        return result

    def release(self, slot: str) -> Future[None]:
        """Unload the old model."""
        return self._in_loop(lambda: self._inference.request(ReleaseModels(slot)), _no_result)

    def settled(self, slot: str) -> Future[None]:
        """Return a future that is done once the slot's model is loaded or has failed to load."""
        future: Future[None] = Future()
        self._loop.post(lambda: self._inference.when_settled(slot, lambda: future.set_result(None)))
        return future

    def streams_of(self, slot: str) -> list[str]:
        """Return the streams whose frames go to a slot."""
        return self._catalog.streams_of(slot)

    def report(self) -> Future[Report]:
        """Return the inference process's counters."""
        return self._in_loop(self._inference.report, lambda report: report)

    def progress(self, update: Update, details: dict[str, Any]) -> None:
        """Report the update's progress to the fleet."""
        self._reports.progress(update, details)
        self._loop.post(self._on_change)

    def finished(self, done: Finished) -> None:
        """Report to the fleet how the job ended, then take the next one."""
        self._reports.finished(done)
        self._loop.post(self._on_change)

    def close(self) -> None:
        """End a trial that is under way."""
        self._trial.close()

    def _in_loop(
        self, request: Callable[[], Future[Reply]], result: Callable[[Reply], Result]
    ) -> Future[Result]:
        """Make a request in the loop's thread; an answer's `error` becomes a ConnectionError."""
        future: Future[Result] = Future()
        self._loop.post(lambda: request().add_done_callback(lambda done: _pass_on(done, future, result)))
        return future


def _accepted(answer: Answer) -> Answer:
    """Return an answer that reports success.

    Raises:
        ConnectionError: it reports an error.
    """
    if answer.error:
        raise ConnectionError(answer.error)
    return answer


def _no_result(answer: Answer) -> None:
    _accepted(answer)


def _pass_on(done: Future[Reply], future: Future[Result], result: Callable[[Reply], Result]) -> None:
    try:
        future.set_result(result(done.result()))
    except ConnectionError as error:
        future.set_exception(error)
