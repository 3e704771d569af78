"""The updater: carries an update from its job to the end, one durable step after another.

It runs in a thread of the supervisor and reaches the rest of the agent through `Host`. If it is killed at any moment,
the next start calls `resume`, which continues from the last step on disk or rolls it back.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, TimeoutError
from typing import Any, Protocol

from edgec.device_agent.config.settings import UpdateSection
from edgec.device_agent.errors import StateError, TrustError, UpdateError
from edgec.device_agent.inference.messages import ModelCounters, Report, SlotCounters
from edgec.device_agent.inference.stats import distance
from edgec.device_agent.updates.deployments import MAX_INTERRUPTIONS, Deployments, Finished, Step, Update
from edgec.device_agent.updates.fetch import Canceled, Fetcher
from edgec.device_agent.updates.messages import TrialResult
from edgec.device_agent.updates.store import ModelStore
from edgec.device_agent.updates.trust import Trust
from edgec.protocol.jobs import JobState, UpdateDocument
from edgec.runtime.errors import ArtifactError

log = logging.getLogger("updater")

_WAIT_S = 15.0
_MIN_SCORES = 200
_MIN_INFERENCES = 20
_WATCH_S = 0.5
_STEP_S = 0.05
_TELL_S = 60.0


RUNS_ALREADY = "it is already running"


class Blindness:
    """The clock of a probation, which begins with the first frame: nothing can be said of a model that saw none."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._began = time.monotonic()
        self._told = -_TELL_S
        self.seen = False

    def left(self, slot: SlotCounters) -> float:
        """Return the seconds that are left, given the slot's counters."""
        now = time.monotonic()
        if not self.seen and slot.active is not None and slot.active.inferences > 0:
            self.seen, self._began = True, now
        return self._began + self._seconds - now

    def due(self) -> bool:
        """Return whether to tell again that no frame has been seen."""
        now = time.monotonic()
        if now - self._told < _TELL_S:
            return False
        self._told = now
        return True


class Host(Protocol):
    """What the updater requires of the agent; the futures fail when the process they wait for dies."""

    def trial(self, slot: str, digest: str, timeout_s: float) -> Future[TrialResult]:
        """Run a model in a process of its own."""

    def load_beside(self, slot: str, digest: str) -> Future[str]:
        """Load a model in the inference process beside the running one; returns its token."""

    def swap(self, slot: str, token: str) -> Future[None]:
        """Make the loaded model the active one."""

    def revert(self, slot: str) -> Future[None]:
        """Make the slot run what `Deployments.to_run` names, at once if the old model is still loaded."""

    def release(self, slot: str) -> Future[None]:
        """Unload the old model."""

    def settled(self, slot: str) -> Future[None]:
        """Return a future that is done once the slot's model is loaded or has failed to load."""

    def streams_of(self, slot: str) -> list[str]:
        """Return the streams whose frames go to a slot."""

    def report(self) -> Future[Report]:
        """Return the inference process's counters, with the `generation` of the process."""

    def progress(self, update: Update, details: dict[str, Any]) -> None:
        """Report to the fleet that the job is in progress, and its step."""

    def finished(self, done: Finished) -> None:
        """Report to the fleet how the job ended; returns once the outbox has it."""


class Updater:
    """Carries out one update at a time."""

    def __init__(
        self,
        deployments: Deployments,
        store: ModelStore,
        trust: Trust,
        settings: UpdateSection,
        host: Host,
        fetcher: Callable[[UpdateDocument, threading.Event, Callable[[int, int], None]], Fetcher],
    ) -> None:
        self._deployments, self._store, self._trust = deployments, store, trust
        self._settings, self._host, self._fetcher = settings, host, fetcher
        self._stop = threading.Event()
        self._canceled = threading.Event()
        self._thread: threading.Thread | None = None
        self._token: str | None = None

    @property
    def busy(self) -> bool:
        """Whether an update is under way."""
        return self._thread is not None and self._thread.is_alive()

    def start(self, update: Update) -> None:
        """Accept a job's update and begin.

        Raises:
            StateError: it cannot be recorded, so it must not begin.
        """
        self._deployments.accept(update)
        self._begin()

    def resume(self) -> None:
        """Continue the update that a crash or power cut interrupted, if there is one."""
        update = self._deployments.interrupted()
        if update is None:
            return
        log.info("an update of %s was interrupted in step %s", update.slot, update.step.value)
        if update.interruptions > MAX_INTERRUPTIONS and update.step not in (Step.ACCEPTED, Step.ROLLING_BACK):
            self._deployments.advance(
                Step.ROLLING_BACK,
                error=f"interrupted {update.interruptions} times in step {update.step.value}",
                interruptions=update.interruptions,
            )
        self._begin()

    def cancel(self, job_id: str) -> None:
        """The fleet cancelled the job: stop, and undo what is not committed."""
        update = self._deployments.update
        if update is not None and update.job_id == job_id:
            self._canceled.set()
            self._stop.set()

    def stop(self) -> None:
        """Stop at the current step, to be resumed by the next start."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join(_WAIT_S)

    def _begin(self) -> None:
        self._stop.clear()
        self._canceled.clear()
        self._token = None
        self._thread = threading.Thread(target=self._run, name="updater", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        update = self._deployments.update
        assert update is not None
        try:
            while (update := self._deployments.update) is not None:
                self._step(update)
        except Canceled:
            update = self._deployments.update
            if update is not None and self._canceled.is_set():
                self._roll_back(update, "canceled", JobState.CANCELED)
        except StateError as error:
            # The previous step is on disk and its model runs; the next start retries.
            log.error("the update waits: %s", error)
        except Exception as error:
            # A defect must not leave the job open for ever; a rollback does not depend on anything that failed.
            log.exception("an unexpected error in an update")
            if (update := self._deployments.update) is not None:
                self._roll_back(update, f"unexpected: {type(error).__name__}: {error}", JobState.FAILED)

    def _step(self, update: Update) -> None:
        try:
            match update.step:
                case Step.ACCEPTED:
                    self._download(update)
                case Step.DOWNLOADED:
                    self._try(update)
                case Step.TRIED:
                    self._swap(update)
                case Step.PROBATION:
                    self._watch(update)
                case Step.ROLLING_BACK:
                    self._roll_back(update, update.error, update.state)
        except (TrustError, ArtifactError) as error:
            self._roll_back(update, str(error), JobState.REJECTED)
        except UpdateError as error:
            self._roll_back(update, str(error), JobState.FAILED)

    def _download(self, update: Update) -> None:
        document = update.parsed
        if self._runs_already(update):
            self._host.finished(
                self._deployments.commit(self._details(update, "", {"message": RUNS_ALREADY}))
            )
            return
        self._trust.check(document)
        self._host.progress(update, {})
        told = 0.0

        def report_progress(done: int, total: int) -> None:
            nonlocal told
            if time.monotonic() - told > 2.0:
                told = time.monotonic()
                self._host.progress(update, {"downloaded_bytes": done, "total_bytes": total})

        fetcher = self._fetcher(document, self._stop, report_progress)
        fetcher.fetch(document.manifest_digest)
        log.info("the model is downloaded: %s bytes transferred", fetcher.transferred)
        self._deployments.advance(Step.DOWNLOADED)

    def _runs_already(self, update: Update) -> bool:
        """Return whether the slot runs an intact copy of the model. A damaged blob is removed, to be fetched again."""
        current, digest = self._deployments.slot(update.slot).current, update.candidate.digest
        if current is None or current.digest != digest or not self._store.whole(digest):
            return False
        self._wait(self._host.settled(update.slot), "loading", self._settings.trial_timeout_s)
        report = self._report()
        active = report.slots.get(update.slot, SlotCounters()).active
        return active is not None and active.manifest_digest == digest

    def _try(self, update: Update) -> None:
        self._host.progress(update, {})
        digest = update.candidate.digest
        if not self._store.whole(digest):
            self._deployments.advance(Step.ACCEPTED)  # damaged since: fetch the missing blobs
            return
        result: TrialResult = self._wait(
            self._host.trial(update.slot, digest, self._settings.trial_timeout_s),
            "the trial run",
            self._settings.trial_timeout_s + _WAIT_S,
        )
        if result.error:
            kind = TrustError if result.incompatible else UpdateError
            raise kind(f"the model failed its trial run: {result.error}")
        self._deployments.advance(Step.TRIED)

    def _swap(self, update: Update) -> None:
        self._host.progress(update, {})
        timeout_s = self._settings.trial_timeout_s
        token = self._wait(self._host.load_beside(update.slot, update.candidate.digest), "loading", timeout_s)
        if self._stop.is_set():
            raise Canceled
        # On disk before it happens: a crash between here and the swap starts the candidate, on probation.
        self._deployments.advance(Step.PROBATION)
        try:
            self._wait(self._host.swap(update.slot, token), "the swap", self._patience_s)
        except UpdateError as error:
            self._roll_back(update, str(error), JobState.FAILED)
            return
        log.info(
            "slot %s now runs %s %s, on probation",
            update.slot,
            update.candidate.name,
            update.candidate.version,
        )

    def _watch(self, update: Update) -> None:
        """Compare the new model with the old one until the probation ends."""
        document = update.parsed
        seconds = self._settings.probation_s if document.probation_s is None else document.probation_s
        self._host.progress(update, {"probation_s": seconds})
        self._wait(self._host.settled(update.slot), "loading", self._settings.trial_timeout_s)
        blind = Blindness(seconds)
        generation: int | None = None
        while True:
            report = self._report()
            slot = report.slots.get(update.slot, SlotCounters())
            if generation is not None and report.generation != generation:
                raise UpdateError("the inference process died while the new model was on probation")
            generation = report.generation
            if complaint := self._complaint(update, document, slot):
                raise UpdateError(complaint)
            left = blind.left(slot)
            if left <= 0 and (seconds <= 0 or blind.seen or not self._undecided(update, blind)):
                break
            if self._stop.wait(min(max(left, _STEP_S), _WATCH_S)):
                raise Canceled
        comparison = _comparison(slot) | ({} if blind.seen else {"unseen": "no stream uses this slot"})
        done = self._deployments.commit(self._details(update, "", comparison))
        log.info("slot %s keeps %s %s", update.slot, update.candidate.name, update.candidate.version)
        self._try_wait(self._host.release(update.slot))
        self._host.finished(done)
        self._store.collect(self._deployments.referenced())

    def _undecided(self, update: Update, blind: Blindness) -> bool:
        """Return whether the probation has to wait: streams use the slot, and none has delivered a frame yet."""
        streams = self._host.streams_of(update.slot)
        if streams and blind.due():
            self._host.progress(update, {"undecided": f"no frame seen from {', '.join(streams)}"})
        return bool(streams)

    def _complaint(self, update: Update, document: UpdateDocument, slot: SlotCounters) -> str:
        """Return why the new model is worse; empty if it is not."""
        now, before = slot.active or ModelCounters(), slot.previous
        if now.manifest_digest != update.candidate.digest:
            return f"the new model does not run: {now.last_error or 'it could not be loaded'}"
        limit = self._settings.max_error_rate if document.max_error_rate is None else document.max_error_rate
        # The rate counts at least a minimum of frames, so that a single early error does not end the probation.
        if now.errors and now.errors > limit * max(now.inferences, _MIN_INFERENCES):
            return f"{now.errors} of {now.inferences} frames failed: {now.last_error}"
        if now.inferences >= _MIN_INFERENCES and before and before.latency and now.latency:
            ratio = now.latency.p50_ms / max(before.latency.p50_ms, 0.5)
            if ratio > self._settings.max_latency_ratio:
                return f"the new model is {ratio:.1f} times slower ({now.latency.p50_ms:.1f} ms)"
        shift = self._settings.max_score_shift
        if shift is not None and before and min(sum(before.scores), sum(now.scores)) >= _MIN_SCORES:
            moved = distance(before.scores, now.scores)
            if moved > shift:
                return f"the scores moved by {moved:.2f} (Kolmogorov-Smirnov), more than {shift}"
        return ""

    def _roll_back(self, update: Update, reason: str, state: JobState) -> None:
        """Roll back to the old model and end the job; the intention is on disk before it happens."""
        current = self._deployments.update
        assert current is not None
        swapped = current.step in (Step.PROBATION, Step.ROLLING_BACK)
        if current.step is not Step.ROLLING_BACK:
            current = self._deployments.advance(Step.ROLLING_BACK, error=reason, state=state)
        log.warning("the update of %s is rolled back: %s", update.slot, reason)
        self._try_wait(self._host.revert(update.slot) if swapped else self._host.release(update.slot))
        details = self._details(update, reason, {}) | {"rolled_back": swapped}
        done = self._deployments.fail(state, details)
        self._host.finished(done)

    def _details(self, update: Update, reason: str, more: dict[str, Any]) -> dict[str, Any]:
        failed = bool(reason)
        running = self._deployments.slot(update.slot).current if failed else update.candidate
        before = self._deployments.slot(update.slot).current
        mended = not failed and before is not None and before.digest == update.candidate.digest
        return {
            "step": update.step.value,
            "message": reason or ("its copy was mended and runs" if mended else "the new model runs"),
            "undecided": "",
            "slot": update.slot,
            "running_version": running.version if running else "",
            "running_digest": running.digest if running else "",
        } | more

    @property
    def _patience_s(self) -> float:
        """How long the inference process may take for an answer: it waits for the frames that are in work."""
        return max(_WAIT_S, self._settings.trial_timeout_s)

    def _report(self) -> Report:
        found: Report = self._wait(self._host.report(), "the report", self._patience_s)
        return found

    def _wait(self, future: Future[Any], what: str, timeout_s: float = _WAIT_S) -> Any:  # noqa: ANN401
        try:
            return future.result(timeout_s)
        except TimeoutError as error:
            raise UpdateError(f"{what} took longer than {timeout_s:.0f} s") from error
        except ConnectionError as error:
            if self._stop.is_set():
                raise Canceled from error
            raise UpdateError(f"{what} failed: {error}") from error

    def _try_wait(self, future: Future[Any]) -> None:
        """Wait for a request whose failure is harmless: a dead process has no old model to reactivate."""
        try:
            future.result(_WAIT_S)
        except (TimeoutError, ConnectionError) as error:
            log.info("the inference process did not answer (%s); it starts with the right model", error)


def _comparison(slot: SlotCounters) -> dict[str, Any]:
    """Return the figures of both models, for the job's result."""
    now, before = slot.active or ModelCounters(), slot.previous
    result: dict[str, Any] = {"frames": now.inferences, "errors": now.errors}
    for name, model in (("new", now), ("old", before)):
        if model and model.latency:
            result[f"{name}_p50_ms"] = model.latency.p50_ms
        if model and model.score_mean is not None:
            result[f"{name}_score_mean"] = model.score_mean
            result[f"{name}_results_per_frame"] = model.results_per_frame
    if before and sum(before.scores) and sum(now.scores):
        result["score_shift"] = round(distance(before.scores, now.scores), 4)
    return result
