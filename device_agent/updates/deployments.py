"""The record of deployments: the model of each slot, the current update and finished jobs, in one file.

Every step is one atomic write.

The steps of an update, each written and fsynced before anything relies on it:

`accepted` → `downloaded` → `tried` → `probation` → (committed) or `rolling-back` → (failed)

One write makes the candidate the slot's current model and ends the update (commit); likewise a failure. At every
moment the file names the model to start.
"""

from __future__ import annotations

import threading
from dataclasses import asdict, dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import Any

from edgec.device_agent.process.statefile import StateFile
from edgec.protocol.jobs import JobState, UpdateDocument

_REMEMBERED_JOBS = 64
MAX_INTERRUPTIONS = 2
"""An update that is interrupted more often in one step is abandoned: it may itself cause the power cuts."""


class Step(StrEnum):
    """The last step of an update that is durably recorded."""

    ACCEPTED = "accepted"
    DOWNLOADED = "downloaded"
    TRIED = "tried"
    PROBATION = "probation"
    ROLLING_BACK = "rolling-back"


@dataclass(frozen=True)
class Version:
    """A model in the store."""

    digest: str
    name: str = ""
    version: str = ""


@dataclass(frozen=True)
class Update:
    """The current update, if any."""

    job_id: str
    slot: str
    document: dict[str, Any]
    step: Step = Step.ACCEPTED
    interruptions: int = 0
    error: str = ""
    state: JobState = JobState.FAILED
    """State in which the job ends unless it succeeds."""

    @property
    def parsed(self) -> UpdateDocument:
        """The job's document, parsed."""
        return UpdateDocument.model_validate(self.document)

    @property
    def candidate(self) -> Version:
        """The model that it installs."""
        document = self.parsed
        return Version(document.manifest_digest, document.model, document.version)


@dataclass(frozen=True)
class Finished:
    """A finished job; `reported` once the outbox has its result."""

    job_id: str
    state: JobState
    details: dict[str, Any]
    reported: bool = False


@dataclass(frozen=True)
class SlotState:
    """A slot's model and the one before it."""

    current: Version | None = None
    previous: Version | None = None
    factory: str = ""
    """Digest of the configured artifact that was installed; a different one in the configuration replaces it."""


@dataclass
class _Content:
    slots: dict[str, SlotState] = field(default_factory=dict)
    update: Update | None = None
    finished: list[Finished] = field(default_factory=list)
    sources: dict[str, list[str]] = field(default_factory=dict)
    """Registry and repository that a digest came from."""


class Deployments:
    """The record and its transitions; each method that changes it returns once the change is on disk."""

    def __init__(self, path: Path) -> None:
        self._file = StateFile(path)
        self._lock = threading.RLock()
        loaded = self._file.load()
        self.problem = loaded.problem
        """What was damaged; empty if nothing was."""
        try:
            self._content = _parse(loaded.data)
        except (KeyError, TypeError, ValueError) as error:
            self._content = _Content()
            self.problem = f"{path.name} has content of an unknown form ({error})"

    @property
    def update(self) -> Update | None:
        """The current update, if any."""
        with self._lock:
            return self._content.update

    def slot(self, name: str) -> SlotState:
        """Return what is recorded of a slot."""
        with self._lock:
            return self._content.slots.get(name, SlotState())

    def slots(self) -> list[str]:
        """Return every recorded slot."""
        with self._lock:
            return list(self._content.slots)

    def to_run(self, slot: str) -> Version | None:
        """Return the model that the slot has to run now: the candidate only while it is on probation."""
        with self._lock:
            update = self._content.update
            if update and update.slot == slot and update.step is Step.PROBATION:
                return update.candidate
            return self.slot(slot).current

    def referenced(self) -> set[str]:
        """Return the digests that must stay in the store."""
        with self._lock:
            kept = {
                version.digest
                for state in self._content.slots.values()
                for version in (state.current, state.previous)
                if version
            }
            if self._content.update:
                kept.add(self._content.update.candidate.digest)
            return kept

    def source(self, digest: str) -> tuple[str, str] | None:
        """Return the registry and repository that a model was fetched from; `None` if it came as a file."""
        with self._lock:
            found = self._content.sources.get(digest)
            return (found[0], found[1]) if found else None

    def finished(self, job_id: str) -> Finished | None:
        """Return how a job ended here; `None` if it did not."""
        with self._lock:
            return next((one for one in self._content.finished if one.job_id == job_id), None)

    def unreported(self) -> list[Finished]:
        """Return the jobs whose results may not have reached the outbox."""
        with self._lock:
            return [one for one in self._content.finished if not one.reported]

    def accept(self, update: Update) -> None:
        """Record the beginning of an update."""
        with self._lock:
            if self._content.update is not None:
                raise ValueError(f"job {self._content.update.job_id} is under way")
            self._write(update=update)

    def advance(self, step: Step, **changes: Any) -> Update:  # noqa: ANN401 - fields of Update
        """Record that a step has been reached."""
        with self._lock:
            assert self._content.update is not None
            update = replace(self._content.update, step=step, **({"interruptions": 0} | changes))
            self._write(update=update)
            return update

    def interrupted(self) -> Update | None:
        """Count a start of the agent during an update; returns the update."""
        with self._lock:
            update = self._content.update
            if update is None:
                return None
            update = replace(update, interruptions=update.interruptions + 1)
            self._write(update=update)
            return update

    def commit(self, details: dict[str, Any]) -> Finished:
        """Make the candidate the slot's model; the job has succeeded."""
        with self._lock:
            update = self._content.update
            assert update is not None
            before = self.slot(update.slot)
            again = before.current is not None and before.current.digest == update.candidate.digest
            previous = before.previous if again else before.current
            slots = self._content.slots | {update.slot: SlotState(update.candidate, previous, before.factory)}
            done = Finished(update.job_id, JobState.SUCCEEDED, details)
            document = update.parsed
            sources = self._content.sources | {
                update.candidate.digest: [document.registry, document.repository]
            }
            used = {
                version.digest for one in slots.values() for version in (one.current, one.previous) if version
            }
            kept = {digest: source for digest, source in sources.items() if digest in used}
            self._write(slots=slots, update=None, finished=self._with(done), sources=kept)
            return done

    def fail(self, state: JobState, details: dict[str, Any]) -> Finished:
        """End the update; the slot keeps its model."""
        with self._lock:
            update = self._content.update
            assert update is not None
            done = Finished(update.job_id, state, details)
            self._write(update=None, finished=self._with(done))
            return done

    def finish(self, done: Finished) -> None:
        """Record the end of a job that is not an update."""
        with self._lock:
            self._write(finished=self._with(done))

    def mark_reported(self, job_id: str) -> None:
        """Record that the outbox has the job's result."""
        with self._lock:
            changed = [
                replace(one, reported=True) if one.job_id == job_id else one for one in self._content.finished
            ]
            self._write(finished=changed)

    def set_slot(self, slot: str, state: SlotState) -> None:
        """Set a slot's models outside of updates: the initial model, or a rollback."""
        with self._lock:
            self._write(slots=self._content.slots | {slot: state})

    def _with(self, done: Finished) -> list[Finished]:
        others = [one for one in self._content.finished if one.job_id != done.job_id]
        return [*others, done][-_REMEMBERED_JOBS:]

    def _write(self, **changes: Any) -> None:  # noqa: ANN401 - fields of _Content
        content = replace(self._content, **changes)
        self._file.save(asdict(content))
        self._content = content


def _parse(data: dict[str, Any]) -> _Content:
    def version(value: dict[str, Any] | None) -> Version | None:
        return Version(**value) if value else None

    slots = {
        name: SlotState(version(value["current"]), version(value["previous"]), value.get("factory", ""))
        for name, value in data.get("slots", {}).items()
    }
    raw = data.get("update")
    update = Update(**(raw | {"step": Step(raw["step"]), "state": JobState(raw["state"])})) if raw else None
    finished = [Finished(**(one | {"state": JobState(one["state"])})) for one in data.get("finished", [])]
    return _Content(slots, update, finished, data.get("sources", {}))
