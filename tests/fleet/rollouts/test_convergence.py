"""Whatever happens between fleet and devices, each slot ends up running what is wanted, or the fleet says why not.

The fleet's side is real (rollouts, jobs, ingestion, database), and so are the devices' job desk and record of
deployments; the network, the clock and the outcome of each update are drawn. Devices have no slot, one, or up to four.
"""

from __future__ import annotations

import hashlib
import random
import shutil
import tempfile
import time
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)
from sqlalchemy import delete, select

from edgec.device_agent.cloud.jobs import JobDesk, JobReporter
from edgec.device_agent.config.settings import AgentConfig
from edgec.device_agent.updates.catalog import Catalog
from edgec.device_agent.updates.deployments import Deployments, SlotState
from edgec.fleet.broker.messages import Inbound
from edgec.fleet.ingest.batch import Batch, IngestCounters, prepare
from edgec.fleet.jobs.service import cancel_job, notify, queue_command
from edgec.fleet.problems import Problem
from edgec.fleet.rollouts.dispatch import Addresses
from edgec.fleet.rollouts.engine import RolloutEngine
from edgec.fleet.rollouts.service import ENDED, NewRollout, act, create_rollout
from edgec.fleet.store.database import Database
from edgec.fleet.store.tables import Base, Device, DeviceSlot, Job, Member, ModelVersion, Rollout
from edgec.protocol.codec import encode
from edgec.protocol.jobs import JobState
from edgec.protocol.status import Health, ModelHealth
from edgec.protocol.topics import Topics, parse

FLEET, TARGET = "f", "x86-64-v3"
MODELS, VERSIONS, SLOTS = ("a", "b"), ("1", "2", "3"), ("a", "b", "left", "right")
COUNTS: Counter[str] = Counter()
EVENTS = (
    ["rollout"] * 3 + ["tick"] * 3 + ["deliver"] * 6 + ["finish"] * 5 + ["upload"] * 7 + ["report_health"] * 4
    + ["change_slots"] * 2 + ["interfere", "cancel", "command", "crash", "goes_back"]
)  # fmt: skip
"""What may happen, as often as it is listed."""


def digest_of(model: str, version: str) -> str:
    return f"sha256:{hashlib.sha256(f'{model}:{version}'.encode()).hexdigest()}"


class Network:
    """What the fleet has published last to each device; the job list is retained."""

    def __init__(self) -> None:
        self.lists: dict[str, bytes] = {}

    def publish(self, topic: str, payload: bytes, *, retain: bool = False) -> None:
        self.lists[parse(topic).device] = payload


class SimDevice:
    """A device with a real record of deployments and job desk; updates end as `finish` is told."""

    def __init__(self, name: str, folder: Path, slots: list[str]) -> None:
        self.name, self.folder, self.slots = name, folder, slots
        self.topics = Topics(FLEET, name)
        self.outbox: list[tuple[str, bytes]] = []
        self.degraded: list[str] = []
        self.boot()

    def boot(self) -> None:
        self.deployments = Deployments(self.folder / "deployments.json")
        self.reports = JobReporter(self.topics, self.deployments, self)  # type: ignore[arg-type]
        store: Any = None
        catalog = Catalog(self._config, self.deployments, store, lambda *_: None)

        def command(_job: str, document: Any) -> dict[str, Any]:
            digest = document.parameters.get("digest")
            slot, version = catalog.roll_back(document.slot, digest)
            return {"slot": slot, "running_version": version.version, "running_digest": version.digest}

        updater: Any = self
        self.desk = JobDesk(
            self.topics,
            self.deployments,
            self.reports,
            updater,
            TARGET,
            catalog.slot_for,
            command,
            lambda: self.slots,
        )
        self.canceled = False
        self.reports.report_again()

    def _config(self) -> AgentConfig:
        return AgentConfig.model_validate({"models": {slot: {} for slot in self.slots}})

    # The outbox, and the updater.

    def put(self, topic: str, payload: bytes, _message_id: str, lane: int = 0) -> None:
        self.outbox.append((topic, payload))

    def flush(self) -> bool:
        return True

    def start(self, update: Any) -> None:
        self.deployments.accept(update)
        self.canceled = False

    def cancel(self, _job_id: str) -> None:
        self.canceled = True

    def finish(self, outcome: str) -> None:
        """End the update under way. A cancellation may come too late for one that succeeds (`won`)."""
        update = self.deployments.update
        if update is None:
            return
        before = self.deployments.slot(update.slot).current
        details = {"slot": update.slot, "message": outcome}
        if update.slot not in self.slots:
            outcome = "failed"
        if outcome == "won" or (outcome == "succeeded" and not self.canceled):
            new = update.candidate
            details |= {"running_version": new.version, "running_digest": new.digest}
            done = self.deployments.commit(details)
        else:
            state = (
                JobState.CANCELED
                if self.canceled
                else JobState.REJECTED
                if outcome == "rejected"
                else JobState.FAILED
            )
            details |= {"running_digest": before.digest if before else ""}
            done = self.deployments.fail(state, details)
        self.reports.finished(done)
        self.desk.next()

    def degrade(self) -> bool:
        """The watchdog takes a slot back by itself; returns whether there was one."""
        for slot in self.slots:
            state = self.deployments.slot(slot)
            if state.previous is not None and self.deployments.update is None:
                self.deployments.set_slot(slot, SlotState(state.previous, None, state.factory))
                self.degraded = [f"model {slot}: failed on every frame: the one before runs again"]
                return True
        return False

    def health(self) -> bytes:
        models = []
        for slot in self.slots:
            version = self.deployments.to_run(slot)
            models.append(
                ModelHealth(slot=slot, name=version.name, version=version.version, manifest_digest=version.digest,
                            state="running")
                if version else ModelHealth(slot=slot, state="absent")
            )  # fmt: skip
        now = datetime.fromtimestamp(time.time(), UTC)
        return encode(Health(boot_id="b", session_seq=1, time=now, models=models, degraded=self.degraded))


class FleetAndDevices(RuleBasedStateMachine):
    """The fleet, three devices and everything that can come between them."""

    database: Database
    base: Path

    @initialize(
        slots=st.lists(st.lists(st.sampled_from(SLOTS), unique=True, max_size=4), min_size=3, max_size=3)
    )
    def begin(self, slots: list[list[str]]) -> None:
        self.now = time.time()
        self.clock = patch("time.time", lambda: self.now)
        self.clock.start()
        self.folder = Path(tempfile.mkdtemp(dir=self.base))
        with self.database.writing() as session:
            for table in reversed(Base.metadata.sorted_tables):
                session.execute(delete(table))
            for number, _ in enumerate(slots):
                session.add(Device(id=number + 1, name=f"d{number}", target=TARGET, admission="accepted"))
            for model in MODELS:
                for version in VERSIONS:
                    session.add(
                        ModelVersion(model=model, version=version, target=TARGET, repository=f"models/{model}",
                                     digest=digest_of(model, version), size=1)
                    )  # fmt: skip
        self.network = Network()
        trust: Any = SimpleNamespace(active=False)
        publisher: Any = self.network
        self.engine = RolloutEngine(self.database, publisher, Addresses(FLEET, "http://r", trust))
        self.devices = []
        for number, found in enumerate(slots):
            (self.folder / f"d{number}").mkdir()
            self.devices.append(SimDevice(f"d{number}", self.folder / f"d{number}", list(found)))
        COUNTS["runs"] += 1

    @rule(what=st.sampled_from(EVENTS), seed=st.integers(0, 2**20))
    def happens(self, what: str, seed: int) -> None:
        """One event; its particulars follow from the seed."""
        getattr(self, what)(random.Random(seed))

    # The fleet.

    def rollout(self, rng: random.Random) -> None:
        device = rng.choice((None, None, 0, 1, 2))
        scope = {"kind": "all", "name": ""} if device is None else {"kind": "device", "name": f"d{device}"}
        plan = {
            "stages": [{"percent": share} for share in rng.choice(((100,), (34, 100)))],
            "on_failure": rng.choice(("stop", "rollback")), "retries": rng.choice((0, 0, 1)),
            "max_failed_percent": rng.choice((0.0, 40.0, 100.0)), "repair": rng.random() < 0.2,
        }  # fmt: skip
        body = {
            "model": rng.choice(MODELS), "version": rng.choice(VERSIONS), "slot": rng.choice((None, None, "left")),
            "scope": scope, "plan": plan,
        }  # fmt: skip
        try:
            with self.database.writing() as session:
                create_rollout(session, "op", NewRollout.model_validate(body))
            COUNTS["rollouts"] += 1
        except Problem:
            COUNTS["rollouts refused"] += 1
        self.engine.tick(self.now)

    def tick(self, rng: random.Random) -> None:
        self.now += rng.choice((0.5, 0.5, 0.5, 30.0, 1000.0))
        self.engine.tick(self.now)

    def interfere(self, rng: random.Random) -> None:
        """An operator pauses, resumes or aborts a rollout."""
        with self.database.reading() as session:
            numbers = session.scalars(select(Rollout.id).where(Rollout.state.not_in(ENDED))).all()
        action = rng.choice(("pause", "resume", "resume", "abort", "take back"))
        if not numbers:
            return
        try:
            if action in ("abort", "take back"):
                self.engine.abort(rng.choice(numbers), "op", take_back=action == "take back")
            else:
                with self.database.writing() as session:
                    act(session, "op", rng.choice(numbers), action)
            COUNTS[f"operator: {action}"] += 1
        except Problem:
            COUNTS["operator refused"] += 1

    def cancel(self, rng: random.Random) -> None:
        """An operator cancels a job."""
        with self.database.writing() as session:
            jobs = session.scalars(select(Job).where(Job.state.in_(("QUEUED", "IN_PROGRESS")))).all()
            if not jobs:
                return
            job = rng.choice(jobs)
            cancel_job(session, "op", f"d{job.device_id - 1}", job.id)
        COUNTS["operator: cancel a job"] += 1
        self.notify(job.device_id - 1)

    def command(self, rng: random.Random) -> None:
        """An operator takes a slot back."""
        number = rng.randrange(3)
        with self.database.writing() as session:
            document = {"operation": "rollback", "slot": rng.choice(SLOTS)}
            queue_command(session, "op", f"d{number}", document, 300.0)
        COUNTS["operator: roll back a slot"] += 1
        self.notify(number)

    def notify(self, device: int) -> None:
        publisher: Any = self.network
        notify(self.database, publisher, FLEET, {device + 1})

    # The network and the devices.

    def deliver(self, rng: random.Random) -> None:
        """A device hears the job list, or it is lost; until then every newer one replaces it."""
        if not self.network.lists:
            return
        name = rng.choice(sorted(self.network.lists))
        payload, lost = self.network.lists.pop(name), rng.random() < 0.2
        COUNTS["job lists lost" if lost else "job lists"] += 1
        if not lost:
            self.hear(self.devices[int(name[1:])], payload)

    @staticmethod
    def hear(one: SimDevice, payload: bytes) -> None:
        one.desk.receive(parse(one.topics.jobs_notify), payload)

    def finish(self, rng: random.Random) -> None:
        """An update ends; one that has won was done when its cancellation came."""
        busy = [one for one in self.devices if one.deployments.update]
        if busy:
            outcome = rng.choice(("succeeded", "succeeded", "succeeded", "failed", "rejected", "won"))
            COUNTS[f"updates {outcome}"] += 1
            rng.choice(busy).finish(outcome)

    def upload(self, rng: random.Random) -> None:
        waiting = [one for one in self.devices if one.outbox]
        if not waiting:
            return
        message, lost = rng.choice(waiting).outbox.pop(0), rng.random() < 0.15
        COUNTS["reports lost" if lost else "reports"] += 1
        if not lost:
            self.ingest(*message)
            self.engine.tick(self.now)

    def report_health(self, rng: random.Random) -> None:
        lost = rng.random() < 0.3
        COUNTS["health lost" if lost else "health"] += 1
        if not lost:
            one = rng.choice(self.devices)
            self.ingest(one.topics.health, one.health())

    def change_slots(self, rng: random.Random) -> None:
        rng.choice(self.devices).slots = rng.sample(SLOTS, rng.randrange(5))
        COUNTS["slot changes"] += 1

    def crash(self, rng: random.Random) -> None:
        rng.choice(self.devices).boot()
        COUNTS["crashes"] += 1

    def goes_back(self, rng: random.Random) -> None:
        COUNTS["roll-backs by the device"] += rng.choice(self.devices).degrade()

    def ingest(self, topic: str, payload: bytes) -> None:
        receipts: Any = None
        batch = Batch(IngestCounters())
        with self.database.writing() as session:
            batch.apply(session, [prepare(Inbound(topic, payload, 0, receipts, self.now))], FLEET)
        assert not batch._rejected, batch._rejected
        for number in batch.notify:
            self.notify(number - 1)

    # What must hold.

    @invariant()
    def what_is_at_work_has_a_job(self) -> None:
        if not hasattr(self, "devices"):
            return
        with self.database.reading() as session:
            members = set(
                session.scalars(select(Member.job_id).where(Member.state.in_(("ACTIVE", "REVERTING"))))
            )
            for row in session.scalars(select(DeviceSlot).where(DeviceSlot.job_id != "")):
                assert row.job_id in members, f"{row.slot} waits for {row.job_id}, which nobody follows"

    def teardown(self) -> None:
        if not hasattr(self, "devices"):
            return
        try:
            self.settle()
            self.check()
        finally:
            self.clock.stop()
            shutil.rmtree(self.folder)

    def settle(self) -> None:
        """The network comes back, time passes, and nobody interferes any more."""
        with self.database.writing() as session:
            for row in session.scalars(select(Rollout).where(Rollout.state == "PAUSED")):
                row.state = "RUNNING"
        for _round in range(12):
            for number, one in enumerate(self.devices):
                self.notify(number)
                self.hear(one, self.network.lists.pop(one.name))
                one.finish("succeeded")
                while one.outbox:
                    self.ingest(*one.outbox.pop(0))
                self.ingest(one.topics.health, one.health())
            self.now += 9000.0 if _round > 5 else 10.0
            self.engine.tick(self.now)
        for one in self.devices:
            self.ingest(one.topics.health, one.health())

    def check(self) -> None:
        with self.database.reading() as session:
            assert not session.scalars(select(Rollout.id).where(Rollout.state.not_in(ENDED))).all()
            done = set(session.scalars(select(Job.id).where(Job.state == "SUCCEEDED")))
            for number, one in enumerate(self.devices):
                assert one.deployments.update is None
                rows = {
                    row.slot: row
                    for row in session.scalars(select(DeviceSlot).filter_by(device_id=number + 1))
                }
                assert set(rows) == set(one.slots), "the fleet knows exactly the slots that there are"
                for slot, row in rows.items():
                    version = one.deployments.to_run(slot)
                    assert row.digest == (version.digest if version else ""), "what is reported is what runs"
                    assert row.job_id == "", "no job is left at work"
                    equal = row.desired_digest in ("", row.digest)
                    assert equal or row.reason, (
                        f"{one.name}/{slot} differs from what is wanted, and nobody says why"
                    )
                    COUNTS["slots equal" if equal else "slots with a reason"] += 1
                    self.check_wish(session, row, done)

    def check_wish(self, session: Any, row: DeviceSlot, done: set[str]) -> None:
        """Only what worked is wanted, or what was there before an update that could not be taken back."""
        if not row.desired_digest:
            return
        members = session.scalars(select(Member).filter_by(device_id=row.device_id)).all()
        jobs = {job.id: job for job in session.scalars(select(Job).filter_by(device_id=row.device_id))}
        worked = {jobs[name].document.get("manifest_digest") for name in done & jobs.keys()}
        before = {
            member.previous_digest for member in members if member.state in ("REVERTED", "REVERT_FAILED")
        }
        assert row.desired_digest in worked | before, "a wish that a failed rollout left behind"


@pytest.fixture
def machine(tmp_path: Path) -> type[FleetAndDevices]:
    memory = Path("/dev/shm")
    base = Path(tempfile.mkdtemp(dir=memory if memory.is_dir() else tmp_path))
    database = Database(f"sqlite:///{base / 'fleet.db'}")
    Base.metadata.create_all(database.engine)
    yield type("Machine", (FleetAndDevices,), {"database": database, "base": base})
    database.close()
    shutil.rmtree(base)
    print(dict(COUNTS))


CHECKS = list(HealthCheck)


def test_every_slot_runs_what_is_wanted_or_the_fleet_says_why(machine: type[FleetAndDevices]) -> None:
    limits = settings(max_examples=25, stateful_step_count=40, deadline=None, suppress_health_check=CHECKS)
    run_state_machine_as_test(machine, settings=limits)


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_every_slot_over_many_runs(machine: type[FleetAndDevices]) -> None:
    limits = settings(max_examples=2000, stateful_step_count=60, deadline=None, suppress_health_check=CHECKS)
    run_state_machine_as_test(machine, settings=limits)
