"""What the updater's thread asks of the supervisor, carried over into the supervisor's loop."""

from __future__ import annotations

import logging
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any, Protocol

from edgec.device_agent.inference.runner import Candidate, Inference, ProcessDied
from edgec.device_agent.process import child
from edgec.device_agent.process.channel import Body, ChannelClosed
from edgec.device_agent.process.loop import Loop
from edgec.device_agent.updates.deployments import Deployments, Finished, Update
from edgec.device_agent.updates.store import ModelStore

log = logging.getLogger("updater")


class JobReports(Protocol):
    """Reports the state of jobs to the fleet."""

    def progress(self, update: Update, details: dict[str, Any]) -> None:
        """Report how far the update has come."""

    def finished(self, done: Finished) -> None:
        """Report how the job ended."""


class UpdateHost:
    """``edgec.device_agent.updates.updater.Host`` on top of the loop and the inference process."""

    def __init__(
        self,
        loop: Loop,
        inference: Inference,
        store: ModelStore,
        deployments: Deployments,
        jobs: JobReports,
        threads_of: Callable[[str], int | None],
        on_change: Callable[[], None],
    ) -> None:
        self._loop, self._inference, self._store = loop, inference, store
        self._deployments, self._jobs = deployments, jobs
        self._threads_of, self._on_change = threads_of, on_change
        self._trial: child.Child | None = None

    def trial(self, slot: str, digest: str, timeout_s: float) -> Future[dict[str, Any]]:
        """Run a model in a process of its own, killed when it takes too long."""
        future: Future[dict[str, Any]] = Future()
        self._loop.post(lambda: self._begin_trial(self._candidate(slot, digest), timeout_s, future))
        return future

    def load_beside(self, slot: str, digest: str) -> Future[str]:
        """Load a model beside the running one, once the slot's own is loaded."""
        future: Future[str] = Future()

        def begin() -> None:
            self._inference.load(slot, self._candidate(slot, digest)).add_done_callback(
                lambda done: _pass_on(done, future, lambda body: str(body["token"]))
            )

        self._loop.post(lambda: self._inference.when_settled(slot, begin))
        return future

    def swap(self, slot: str, token: str) -> Future[None]:
        """Make the loaded model the active one."""
        return self._ask(lambda: self._inference.swap(slot, token), lambda _: None)

    def revert(self, slot: str) -> Future[None]:
        """Put the old model back; where it is no longer loaded, load what the slot has to run."""
        result: Future[None] = Future()

        def begin() -> None:
            def answered(done: Future[Body]) -> None:
                if done.exception() is None and done.result()["error"]:
                    self._inference.load_slot(slot)
                result.set_result(None)

            self._inference.ask({"op": "revert", "slot": slot}).add_done_callback(answered)

        self._loop.post(begin)
        return result

    def release(self, slot: str) -> Future[None]:
        """Let go of the old model."""
        return self._ask(lambda: self._inference.ask({"op": "release", "slot": slot}), lambda _: None)

    def settled(self, slot: str) -> Future[None]:
        """Done when the slot's model is loaded, or cannot be."""
        future: Future[None] = Future()
        self._loop.post(lambda: self._inference.when_settled(slot, lambda: future.set_result(None)))
        return future

    def report(self) -> Future[dict[str, Any]]:
        """The inference process's counters."""
        return self._ask(lambda: self._inference.ask({"op": "report"}), lambda body: body)

    def progress(self, update: Update, details: dict[str, Any]) -> None:
        """Tell the fleet where the update stands."""
        self._jobs.progress(update, details)
        self._loop.post(self._on_change)

    def finished(self, done: Finished) -> None:
        """Tell the fleet how the job ended, then take the next one."""
        self._jobs.finished(done)
        self._loop.post(self._on_change)

    def close(self) -> None:
        """End a trial that is under way."""
        if self._trial is not None:
            self._trial.kill()

    def _candidate(self, slot: str, digest: str) -> Candidate:
        return Candidate(str(self._store.folder), digest, self._threads_of(slot))

    def _ask(self, request: Callable[[], Future[Body]], result: Callable[[Body], Any]) -> Future[Any]:
        """Ask in the loop's thread; an answer's ``error`` becomes a ConnectionError."""
        future: Future[Any] = Future()
        self._loop.post(lambda: request().add_done_callback(lambda done: _pass_on(done, future, result)))
        return future

    def _begin_trial(self, model: Candidate, timeout_s: float, future: Future[dict[str, Any]]) -> None:
        process = child.spawn("trial", "edgec.device_agent.updates.trial")
        self._trial = process
        answer: Body = {}
        late = self._loop.call_later(timeout_s, process.kill)

        def ended() -> None:
            late.cancel()
            process.channel.socket.setblocking(False)
            try:
                answer.update(process.channel.receive()[0])
            except (ChannelClosed, BlockingIOError):
                log.info("the trial process said nothing")
            self._loop.remove_reader(process.pidfd)
            status = process.reap()
            self._trial = None
            if answer:
                future.set_result(answer)
            elif late.callback is None and status != -9:
                future.set_result({"error": f"the process that tried the model ended with status {status}"})
            else:
                future.set_result(
                    {"error": f"the model did not answer within {timeout_s:.0f} s, or was killed"}
                )

        self._loop.add_reader(process.pidfd, ended)
        try:
            process.channel.send(
                {"path": str(Path(model.path)), "digest": model.digest, "threads": model.threads}
            )
        except ChannelClosed as error:
            raise ProcessDied("the trial process died at once") from error


def _pass_on(done: Future[Body], future: Future[Any], result: Callable[[Body], Any]) -> None:
    if (error := done.exception()) is not None:
        future.set_exception(error)
    elif done.result().get("error"):
        future.set_exception(ConnectionError(done.result()["error"]))
    else:
        future.set_result(result(done.result()))
