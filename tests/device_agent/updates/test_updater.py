"""The update's state machine with the power cut at every write, by a simulator behind the same interface.

The simulator keeps the record of deployments and the model store in real files and plays the inference
process. A cut is an exception at a chosen write, before or after it; the next start sees only the files.
"""

from __future__ import annotations

import itertools
import shutil
import tempfile
import threading
import time
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgec.device_agent.config.settings import UpdateSection
from edgec.device_agent.inference.messages import Latency, ModelCounters, Report, SlotCounters
from edgec.device_agent.process import statefile
from edgec.device_agent.process.retry import RetryPolicy
from edgec.device_agent.updates.deployments import Deployments, Finished, SlotState, Update, Version
from edgec.device_agent.updates.fetch import Fetcher
from edgec.device_agent.updates.messages import TrialResult
from edgec.device_agent.updates.store import ModelStore
from edgec.device_agent.updates.trust import DigestTrust
from edgec.device_agent.updates.updater import Updater
from edgec.protocol.jobs import JobState
from tests.device_agent.harness import Registry, make_artifact, note

SETTINGS = UpdateSection(probation_s=0.0, trial_timeout_s=5)
RETRY = RetryPolicy(first_s=0.01, max_s=0.05, total_s=60)


class PowerCut(BaseException):
    """Everything in memory is gone."""


class Machine:
    """The device: what is on disk stays, everything else is made anew at each start."""

    def __init__(self, folder: Path, registry: Registry, bad: bool) -> None:
        self.folder, self.registry, self.bad = folder, registry, bad
        self.results: dict[str, Finished] = {}
        self.cuts = 0
        self.writes = 0
        self.cut_at: tuple[int, str] | None = None

    def boot(self) -> None:
        """Start, resume, and run to the end or the next cut."""
        self.store = ModelStore(self.folder / "models")
        self.record = Deployments(self.folder / "deployments.json")
        # What a start runs: the model that the record names must be whole in the store.
        version = self.record.to_run("a")
        assert version is not None
        assert self.store.whole(version.digest), "the record names a model that is not there"
        self.loaded: str | None = version.digest
        self.previous: str | None = None
        self.updater = Updater(self.record, self.store, DigestTrust(), SETTINGS, self, self._fetcher)
        for done in self.record.unreported():
            self.finished(done)

    def run(self, job: Update | None) -> bool:
        """Do what the thread does, in this one; False when the power was cut."""
        try:
            self.boot()
            if self.record.update is not None:
                self.updater._thread = None
                self.record.interrupted()
            elif job is not None and self.record.finished(job.job_id) is None:
                self.record.accept(job)
            else:
                return True
            self.updater._run()
        except PowerCut:
            return False
        return True

    def write(self, real: Any, path: Path, data: bytes, mode: int) -> None:
        if path.name != "deployments.json":
            real(path, data, mode)
            return
        self.writes += 1
        if self.cut_at == (self.writes, "before"):
            raise PowerCut
        real(path, data, mode)
        if self.cut_at == (self.writes, "after"):
            raise PowerCut

    def _fetcher(self, document: Any, stop: threading.Event, progress: Any) -> Fetcher:
        return Fetcher(self.store, document.registry, document.repository, None, stop, RETRY, progress)

    # What the updater asks for.

    def trial(self, slot: str, digest: str, timeout_s: float) -> Future[TrialResult]:
        return done(TrialResult(error="it crashed" if self.bad == "trial" else ""))

    def load_beside(self, slot: str, digest: str) -> Future[str]:
        self.beside = digest
        return done("token")

    def swap(self, slot: str, token: str) -> Future[None]:
        self.previous, self.loaded = self.loaded, self.beside
        return done(None)

    def revert(self, slot: str) -> Future[None]:
        version = self.record.to_run(slot)
        self.loaded = version.digest if version else None
        return done(None)

    def release(self, slot: str) -> Future[None]:
        self.previous = None
        return done(None)

    def settled(self, slot: str) -> Future[None]:
        return done(None)

    def report(self) -> Future[Report]:
        counters = ModelCounters(
            manifest_digest=self.loaded or "",
            inferences=30,
            errors=30 if self.bad == "frames" else 0,
            last_error="NaN",
            latency=Latency(1.0, 2.0),
            scores=[0] * 20,
        )
        return done(Report(generation=1, slots={"a": SlotCounters(counters)}))

    def progress(self, update: Update, details: dict[str, Any]) -> None:
        pass

    def finished(self, one: Finished) -> None:
        self.results[one.job_id] = one
        self.record.mark_reported(one.job_id)


def done(value: Any) -> Future[Any]:
    future: Future[Any] = Future()
    future.set_result(value)
    return future


@pytest.fixture
def device(tmp_path: Path, registry: Registry, monkeypatch: pytest.MonkeyPatch):
    old, old_digest = make_artifact(tmp_path, "1")
    new, _ = make_artifact(tmp_path, "2")
    new_digest = registry.add(new)
    count = itertools.count()
    # In memory where that is possible: fsync is not what is tried here, and there are thousands.
    memory = Path("/dev/shm")
    base = Path(tempfile.mkdtemp(dir=memory if memory.is_dir() else tmp_path))
    current: list[Machine] = []
    real = statefile.write_durably
    monkeypatch.setattr(
        statefile, "write_durably", lambda path, data, mode=0o644: current[-1].write(real, path, data, mode)
    )

    def make(bad: str = "") -> tuple[Machine, Update, str, str]:
        machine = Machine(base / f"device-{next(count)}", registry, bad)
        current.append(machine)
        ModelStore(machine.folder / "models").add_artifact(old)
        Deployments(machine.folder / "deployments.json").set_slot(
            "a", SlotState(Version(old_digest, "d", "1"))
        )
        machine.writes = 0
        return machine, Update("job", "a", registry.update(new_digest, "2")), old_digest, new_digest

    yield make
    shutil.rmtree(base)


def check(machine: Machine, bad: str, old: str, new: str) -> None:
    """A working model, the right one, and a truthful result."""
    result = machine.results["job"]
    running = machine.record.to_run("a")
    assert running is not None
    assert machine.record.update is None
    assert machine.store.whole(running.digest)
    assert running.digest == machine.loaded == result.details["running_digest"]
    if bad:
        assert (result.state, running.digest) == (JobState.FAILED, old)
    else:
        assert (result.state, running.digest) == (JobState.SUCCEEDED, new)


@pytest.mark.parametrize("bad", ["", "trial", "frames"])
def test_a_cut_at_every_write(device, bad: str) -> None:
    machine, job, old, new = device(bad)
    assert machine.run(job)
    check(machine, bad, old, new)
    total = machine.writes
    assert total >= 5
    for number in range(1, total + 1):
        for moment in ("before", "after"):
            machine, job, old, new = device(bad)
            machine.cut_at = (number, moment)
            assert not machine.run(job), (number, moment)
            machine.cut_at = None
            began = time.monotonic()
            assert machine.run(job), (number, moment)
            check(machine, bad, old, new)
            what = {
                "": "good model",
                "trial": "model that fails its trial",
                "frames": "model that fails on frames",
            }[bad]
            note(f"power cut at a write of an update: {moment}, {what}", time.monotonic() - began, None)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    bad=st.sampled_from(["", "trial", "frames"]),
    cuts=st.lists(st.tuples(st.integers(1, 8), st.sampled_from(["before", "after"])), max_size=7),
)
def test_many_cuts_in_a_row(device, bad: str, cuts: list[tuple[int, str]]) -> None:
    many_cuts(device, bad, cuts)


@pytest.mark.long
@pytest.mark.timeout(1800)
@settings(max_examples=1000, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    bad=st.sampled_from(["", "trial", "frames"]),
    cuts=st.lists(st.tuples(st.integers(1, 8), st.sampled_from(["before", "after"])), max_size=7),
)
def test_very_many_cuts_in_a_row(device, bad: str, cuts: list[tuple[int, str]]) -> None:
    many_cuts(device, bad, cuts)


def many_cuts(device, bad: str, cuts: list[tuple[int, str]]) -> None:
    """However often the power goes, the job ends and says what runs; too many cuts take the update back."""
    machine, job, old, new = device(bad)
    for cut in cuts:
        machine.writes, machine.cut_at = 0, cut
        machine.run(job)
    machine.writes, machine.cut_at = 0, None
    began = time.monotonic()
    assert machine.run(job)
    machine.boot()
    result = machine.results["job"]
    running = machine.record.to_run("a")
    assert running is not None
    assert machine.record.update is None
    assert running.digest == result.details["running_digest"]
    assert (result.state is JobState.SUCCEEDED) == (running.digest == new)
    if bad or (result.state is JobState.FAILED):
        assert running.digest == old
    note(f"power cuts in a row: {len(cuts)}", time.monotonic() - began, None)
