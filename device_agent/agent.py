"""The supervisor: starts every part, joins them, and ends them. ``edgec agent run`` is this."""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
import tomllib
import uuid
from collections.abc import Callable
from concurrent.futures import Future
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from edgec.device_agent.capture.runner import StreamRunner
from edgec.device_agent.cloud import certificates
from edgec.device_agent.cloud import identity as ident
from edgec.device_agent.cloud.capture_jobs import take_samples
from edgec.device_agent.cloud.capture_uplink import SampleUplink
from edgec.device_agent.cloud.homeassistant import Discovery
from edgec.device_agent.cloud.jobs import JobDesk
from edgec.device_agent.cloud.mqtt_client import Identity, Uplink
from edgec.device_agent.cloud.outbox import Outbox
from edgec.device_agent.cloud.shadow import ShadowDesk
from edgec.device_agent.config.settings import AgentConfig, load_config
from edgec.device_agent.errors import StateError, UpdateError
from edgec.device_agent.health.budgets import BudgetKeeper
from edgec.device_agent.health.metrics import MetricsServer
from edgec.device_agent.health.report import (
    Meter,
    captures_health,
    clock_is_plausible,
    free_bytes,
    model_health,
    stream_health,
)
from edgec.device_agent.health.status_socket import StatusSocket
from edgec.device_agent.inference.runner import Candidate, Inference
from edgec.device_agent.process import log as logs
from edgec.device_agent.process.channel import Body
from edgec.device_agent.process.loop import Loop
from edgec.device_agent.process.statefile import StateFile, claim_folder, explain
from edgec.device_agent.process.systemd import Notifier
from edgec.device_agent.updates.deployments import Deployments, SlotState, Version
from edgec.device_agent.updates.fetch import Fetcher, Patience
from edgec.device_agent.updates.host import UpdateHost
from edgec.device_agent.updates.store import ModelStore
from edgec.device_agent.updates.tuf_trust import trust_of
from edgec.device_agent.updates.updater import Updater
from edgec.device_agent.updates.watchdog import Aftercare
from edgec.device_agent.view.runner import ViewRunner
from edgec.protocol.codec import encode
from edgec.protocol.events import DetectionData
from edgec.protocol.jobs import CommandDocument, UpdateDocument
from edgec.protocol.status import Health, OutboxHealth
from edgec.protocol.topics import Kind, Topics, parse
from edgec.runtime.errors import ArtifactError

log = logging.getLogger("agent")

_TICK_S = 1.0
_RECONNECT_HEALTH_S = 60.0
_GOODBYE_S = 6.0
_BUDGET_TICKS = 5


class Agent:
    """One device's agent."""

    def __init__(self, path: Path, config: AgentConfig | None = None) -> None:
        self._file_config = config or load_config(path)
        self.state = self._file_config.agent.state
        self._lock = claim_folder(self.state)
        table = tomllib.loads(path.read_text(encoding="utf-8"))
        self.identity = ident.load_identity(self.state)
        certificates.trust(self.state)
        self.fleet, self.device = ident.names_of(self._file_config, self.identity)
        self.topics = Topics(self.fleet, self.device)
        self.boot = uuid.uuid4().hex[:12]
        self.target = ident.target_name()
        self.loop = Loop()
        outbox = self._file_config.outbox
        self.outbox = Outbox(
            self.state / "outbox.db", outbox.max_bytes, outbox.max_age_s, self._outbox_changed
        )
        self.deployments = Deployments(self.state / "deployments.json")
        if self.deployments.problem:
            log.error("the record of deployments: %s", self.deployments.problem)
        self.store = ModelStore(self.state / "models")
        self.shadow = ShadowDesk(
            self.topics, table, path, StateFile(self.state / "shadow.json"), self.outbox, self._apply
        )
        self.config = self.shadow.effective()
        samples = {"folder": str(self.state / "samples"), **self.config.capture.model_dump()}
        media = {
            "folder": str(self.state / "media"), "device": self.device, "samples": samples,
            **self.config.media.model_dump(),
        }  # fmt: skip
        self.inference = Inference(
            self.loop, self.boot, media, self._models_of, self._event, self._inference_died, self._changed
        )
        self._wire_updates()
        self.aftercare = Aftercare(self.deployments)
        self.inference.on_blame = self._blame
        self.streams: dict[str, StreamRunner] = {}
        self.uplink: Uplink | None = None
        self.samples: SampleUplink | None = None
        self.view: ViewRunner | None = None
        if self.config.view.enabled:
            self.view = ViewRunner(self.loop, self.config.view, self.device, self.inference.watch)
            self.inference.watched = self.view.watched.__contains__
        self.discovery = Discovery(self.topics, ident.agent_version(), self.state)
        self.meter = Meter()
        self.notifier = Notifier()
        self.budget = BudgetKeeper(self.config.budgets)
        self._ticks = 0
        self._pipelines: dict[str, Any] = {}
        self._slot_counters: dict[str, Any] = {}
        self._sample_counters: dict[str, Any] = {}
        self._started = time.monotonic()
        self._health_timer: object | None = None
        self._reconnect_health = -_RECONNECT_HEALTH_S
        self._stopping = False
        self.degraded: dict[str, str] = {}
        self._metrics: MetricsServer | None = None
        self._status: StatusSocket | None = None
        self._latest = self.health("interval")

    def _wire_updates(self) -> None:
        self.jobs = JobDesk(
            self.topics, self.deployments, self.outbox, self.target, self._slot_of, self._command
        )
        self.host = UpdateHost(
            self.loop,
            self.inference,
            self.store,
            self.deployments,
            self.jobs,
            self._threads_of,
            self._job_moved,
        )
        self.updater = Updater(
            self.deployments,
            self.store,
            trust_of(self.identity, self.state, self.target),
            self.config.updates,
            self.host,
            self._fetcher,
        )
        self.jobs.updater = self.updater

    # Life.

    def run(self) -> None:
        """Work until SIGTERM or SIGINT; leaves no process and no shared memory behind."""
        self.loop.on_signals((signal.SIGTERM, signal.SIGINT, signal.SIGHUP), lambda _: self.loop.stop())
        self._start()
        try:
            self.loop.run()
        finally:
            self._stop()

    def _start(self) -> None:
        log.info("agent %s, boot %s, device %s/%s", ident.agent_version(), self.boot, self.fleet, self.device)
        self.outbox.end_open_tracks(self.topics.events)
        self.jobs.report_again()
        for slot in self.config.models:
            self._install(slot)
        for slot in self.config.models:
            self.inference.add_slot(slot)
        self._set_timeouts()
        self.inference.start()
        if self.view is not None:
            self.view.start()
        for name in self.config.streams:
            self._add_stream(name)
        self.updater.resume()
        certificates.mend(self.state)
        broker = ident.broker_of(self.config, self.identity, certificates.files_of(self.state))
        if broker is None:
            log.warning("no broker is configured and the device is not enrolled: events stay in the outbox")
        else:
            who = Identity(self.boot, ident.agent_version(), self.target, self.config.agent.labels)
            self.uplink = Uplink(
                broker, self.topics, who, self.outbox, StateFile(self.state / "session.json"),
                lambda topic, payload: self.loop.post(lambda: self._message(topic, payload)),
                lambda up: self.loop.post(lambda: self._session(up)),
            )  # fmt: skip
            self.uplink.start()
        if self.identity is not None:
            access = self.identity.registry
            server = self.identity.api_url or access.url
            certificates.Renewer(self.state, server, access.token).start()
            self.samples = SampleUplink(self.state / "samples", server, access.token)
            self.inference.on_sample = self.samples.notify
            self.samples.start()
        if self.config.metrics.port is not None:
            self._start_metrics(self.config.metrics.port)
        try:
            self._status = StatusSocket(self.loop, self.state, self._status_report)
        except OSError as error:
            self._degrade(
                "status", f"`edgec agent status` gets no answer until the next start: {explain(error)}"
            )
        self.loop.call_later(_TICK_S, self._tick)
        self.loop.call_later(self.config.agent.health_interval_s, self._health_due)
        self.notifier.ready()

    def _stop(self) -> None:
        log.info("the agent stops")
        self._stopping = True
        self.notifier.stopping()
        self.host.close()
        stopper = threading.Thread(target=self.updater.stop, daemon=True)
        stopper.start()
        # The loop turns on: the updater may wait for an answer, and pipelines end their tracks.
        self.inference.close()
        self.loop.run_until(lambda: self.inference.stopped and not stopper.is_alive(), _GOODBYE_S)
        for runner in self.streams.values():
            runner.close()
        if self.view is not None:
            self.view.close()
        if not self.inference.stopped:
            self.inference.kill()
            self.loop.run_until(lambda: self.inference.stopped, 2.0)
        self.outbox.flush()
        if self.uplink is not None:
            self.uplink.stop()
        if self.samples is not None:
            self.samples.stop()
        self.outbox.close()
        if self._metrics is not None:
            self._metrics.close()
        if self._status is not None:
            self._status.close()
        os.close(self._lock)
        log.info("stopped")

    def _start_metrics(self, port: int) -> None:
        try:
            self._metrics = MetricsServer(port, lambda: self._latest)
        except OSError as error:
            self._degrade("metrics", f"port {port}: {error.strerror}")
            return
        log.info("metrics on http://127.0.0.1:%s/metrics", self._metrics.port)

    # Models.

    def _install(self, slot: str) -> None:
        """Take the configured artifact in, when it is new."""
        artifact = self.config.models[slot].artifact
        state = self.deployments.slot(slot)
        if artifact is None or not artifact.is_file():
            if artifact is not None and state.current is None:
                self._degrade(f"model {slot}", f"there is no file {artifact}")
            return
        try:
            digest = self.store.add_artifact(artifact)
            if digest != state.factory:
                self.deployments.set_slot(slot, SlotState(Version(digest), state.current, digest))
        except (ArtifactError, StateError) as error:
            self._degrade(f"model {slot}", str(error))

    def _models_of(self, slot: str) -> list[Candidate]:
        """What to load into a slot, best first: what it has to run, then what ran before."""
        threads = self._threads_of(slot)
        state = self.deployments.slot(slot)
        versions = [self.deployments.to_run(slot), state.current, state.previous]
        digests = list(dict.fromkeys(version.digest for version in versions if version))
        if state.factory and state.factory not in digests:
            digests.append(state.factory)
        models = [Candidate(str(self.store.folder), digest, threads) for digest in digests]
        section = self.config.models.get(slot)
        if section and section.artifact and section.artifact.is_file():
            models.append(Candidate(str(section.artifact), None, threads))
        return models

    def _threads_of(self, slot: str) -> int | None:
        section = self.config.models.get(slot)
        return section.threads if section else None

    def _slot_of(self, document: UpdateDocument) -> str | None:
        """The slot that an update is for: named, or of the model's name, or the only one."""
        wanted = document.slot or document.model
        if wanted in self.config.models:
            return wanted
        for slot in self.config.models:
            current = self.deployments.slot(slot).current
            if document.slot is None and current and current.name == document.model:
                return slot
        return next(iter(self.config.models)) if len(self.config.models) == 1 and not document.slot else None

    def _fetcher(
        self, document: UpdateDocument, stop: threading.Event, progress: Callable[[int, int], None]
    ) -> Fetcher:
        access = self.identity.registry if self.identity else None
        same = access is not None and access.url.rstrip("/") == document.registry.rstrip("/")
        token = access.token if access is not None and same else None
        patience = Patience(total_s=self.config.updates.download_timeout_s)
        return Fetcher(self.store, document.registry, document.repository, token, stop, patience, progress)

    def _set_timeouts(self) -> None:
        self.inference.timeout_s = max((m.timeout_s for m in self.config.models.values()), default=10.0)

    # Streams and configuration.

    def _add_stream(self, name: str) -> None:
        settings = self.config.streams[name]
        if not settings.enabled:
            return
        runner = StreamRunner(name, settings, self.loop, lambda _: self._changed())
        self.streams[name] = runner
        if self.view is not None:
            runner.view_fds = self.view.add(name, settings)
        self.inference.add_stream(runner)
        runner.start()

    def _remove_stream(self, name: str) -> None:
        runner = self.streams.pop(name, None)
        if runner is not None:
            self.inference.remove_stream(name)
            runner.close()
            if self.view is not None:
                self.view.remove(name)

    def _apply(self, config: AgentConfig) -> None:
        """Go over to another configuration; streams and models that stay the same are not touched."""
        before, self.config = self.config, config
        for name in list(self.streams):
            if config.streams.get(name) != before.streams.get(name):
                self._remove_stream(name)
        for slot in before.models:
            if slot not in config.models:
                self.inference.remove_slot(slot)
        for slot, section in config.models.items():
            if section != before.models.get(slot):
                self._install(slot)
                self.inference.add_slot(slot)
        for name in config.streams:
            if name not in self.streams:
                self._add_stream(name)
        self._set_timeouts()
        self._discover()
        self._changed()

    # What comes in.

    def _event(self, body: Body) -> None:
        """Take a detection from a pipeline; one that makes no sense is the inference process's fault."""
        stream = body["stream"]
        data = DetectionData.model_validate(body["data"])
        self.outbox.put_event(
            self.topics.events(stream),
            f"/edgec/{self.fleet}/{self.device}/{stream}",
            stream,
            body["id"],
            data,
            critical=bool(body["critical"]),
        )

    def _blame(self, mark: int) -> None:
        """A model ended the inference process; one that does so again and again is taken back."""
        for slot, why in self.aftercare.died(mark):
            self._degrade(f"model {slot}", why)

    def _inference_died(self) -> None:
        self.outbox.end_open_tracks(self.topics.events)

    def _message(self, topic: str, payload: bytes) -> None:
        parsed = parse(topic)
        if parsed.kind in (Kind.JOBS_NOTIFY, Kind.JOB_UPDATE_ACCEPTED, Kind.JOB_UPDATE_REJECTED):
            self.jobs.take(parsed, payload)
        else:
            self.shadow.take(parsed, payload)

    def _session(self, up: bool) -> None:
        if not up or self.uplink is None:
            log.warning("the broker is gone; %s messages wait", self.outbox.state().depth)
            return
        for topic, payload in (self.jobs.ask(), self.shadow.ask()):
            self.uplink.publish_now(topic, payload)
        self.shadow.report()
        self._discover()
        now = time.monotonic()
        if now - self._reconnect_health >= _RECONNECT_HEALTH_S:
            self._reconnect_health = now
            self._report_health("reconnect")

    def _discover(self) -> None:
        """Tell Home Assistant what there is, or take away what it was told."""
        try:
            if self.uplink is not None:
                for topic, payload in self.discovery.messages(self.config):
                    self.uplink.publish_now(topic, payload, retain=True)
        except StateError as error:
            self._degrade("homeassistant", str(error))

    def _outbox_changed(self) -> None:
        if self.uplink is not None:
            self.uplink.notify()

    def _command(self, job_id: str, document: CommandDocument) -> dict[str, Any] | Future[dict[str, Any]]:
        match document.operation:
            case "snapshot" | "capture":
                if self.samples is None:
                    raise UpdateError("this device is not enrolled: no fleet server takes its pictures")
                return take_samples(self.loop, self.inference, job_id, document)
            case "restart-stream":
                runner = self.streams.get(document.stream or "")
                if runner is None:
                    raise UpdateError(f"there is no stream {document.stream}")
                runner.restart("the fleet asked for it")
            case "report-health":
                self._report_health("request")
            case "restart":
                self.inference.kill()
            case "rollback":
                return self._roll_back(document)
        return {}

    def _roll_back(self, document: CommandDocument) -> dict[str, Any]:
        slot = document.slot or next(iter(self.config.models), "")
        state = self.deployments.slot(slot)
        if state.previous is None:
            raise UpdateError(f"slot {slot} has no model from before")
        if self.deployments.update is not None:
            raise UpdateError("an update is under way")
        self.deployments.set_slot(slot, SlotState(state.previous, state.current, state.factory))
        self.inference.load_slot(slot)
        return {"running_version": state.previous.version, "running_digest": state.previous.digest}

    # How it is.

    def _tick(self) -> None:
        if self._stopping:
            return
        self.loop.call_later(_TICK_S, self._tick)
        for runner in self.streams.values():
            runner.tick()
        self.inference.tick()
        self.notifier.alive()
        problem = self.outbox.state().problem
        if problem:
            self._degrade("outbox", problem)
        else:
            self.degraded.pop("outbox", None)
        if errors := self.loop.errors + (self.uplink.errors if self.uplink else 0):
            self._degrade("agent", f"{errors} unexpected errors, see the log")
        self._ticks += 1
        if self._ticks % _BUDGET_TICKS == 0:
            self._keep_budget()

    def _keep_budget(self) -> None:
        limits = self.config.budgets
        if limits.cpu_percent or limits.memory_mb or limits.temperature_c:
            self.meter.measure(self.pids())
            meter = self.meter
            said = self.budget.look(self.streams, meter.cpu_percent, meter.memory_bytes, meter.temperature_c)
            if said:
                self._degrade("budget", said)
            elif self.degraded.pop("budget", None):
                self._changed()

    def _degrade(self, what: str, why: str) -> None:
        if self.degraded.get(what) != why:
            log.error("%s: %s", what, why)
            self.degraded[what] = why
            self._changed()

    def _job_moved(self) -> None:
        self._changed()
        update = self.deployments.update
        if update is None:
            self.jobs.next()
        else:
            self.degraded.pop(f"model {update.slot}", None)

    def _changed(self) -> None:
        """Something that health tells has changed: tell it soon, once for all changes of a moment."""
        if self._health_timer is None and not self._stopping:
            self._health_timer = self.loop.call_later(0.5, self._change_due)

    def _change_due(self) -> None:
        self._health_timer = None
        self._report_health("change")

    def _health_due(self) -> None:
        if self._stopping:
            return
        self.loop.call_later(self.config.agent.health_interval_s, self._health_due)
        self._report_health("interval")

    def _report_health(self, cause: str) -> None:
        """Ask the inference process for its figures and publish when they are here."""
        if self._stopping:
            return

        def publish(done: Any) -> None:  # noqa: ANN401 - the future
            if done.exception() is None:
                self._pipelines = done.result()["streams"]
                self._slot_counters = done.result()["slots"]
                self._sample_counters = done.result()["samples"]
                for slot, why in self.aftercare.look(self._slot_counters):
                    self._degrade(f"model {slot}", why)
                    self.inference.load_slot(slot)
            self._latest = self.health(cause)
            if self.uplink is not None:
                self.uplink.publish_now(self.topics.health, encode(self._latest))

        self.inference.ask({"op": "report"}).add_done_callback(publish)

    def health(self, cause: str) -> Health:
        """Return the message from what is known now."""
        self.meter.measure(self.pids())
        outbox = self.outbox.state()
        update = self.deployments.update
        models = []
        for slot, state in self.inference.slots.items():
            on_probation = update and update.slot == slot and update.step.value == "probation"
            models.append(
                model_health(
                    slot,
                    "probation" if on_probation and state == "running" else state,
                    self.inference.messages.get(slot, ""),
                    self.inference.restarts,
                    self._slot_counters.get(slot, {}),
                )
            )
        return Health(
            boot_id=self.boot,
            session_seq=self.uplink.session_seq if self.uplink else 0,
            time=datetime.now(UTC),
            cause=cause,  # type: ignore[arg-type]
            agent_version=ident.agent_version(),
            target=self.target,
            uptime_s=round(time.monotonic() - self._started, 1),
            streams=[
                stream_health(runner.report(), self._pipelines.get(name, {}))
                for name, runner in self.streams.items()
            ],
            models=models,
            outbox=OutboxHealth(
                depth=outbox.depth,
                bytes=outbox.bytes,
                oldest_age_s=round(outbox.oldest_age_s, 1),
                dropped=outbox.dropped,
                pressure=round(outbox.pressure, 4),
            ),
            captures=captures_health(self.samples.state() if self.samples else None, self._sample_counters),
            cpu_percent=self.meter.cpu_percent,
            memory_bytes=self.meter.memory_bytes,
            temperature_c=self.meter.temperature_c,
            disk_free_bytes=free_bytes(self.state),
            clock_trusted=clock_is_plausible(),
            job_id=self.jobs.current,
            job_step=self.jobs.step,
            degraded=[f"{what}: {why}" for what, why in self.degraded.items()],
        )

    def pids(self) -> list[int]:
        """Every process of the agent."""
        others = [self.inference.pid, *(runner.pid for runner in self.streams.values())]
        others.append(self.view.pid if self.view else None)
        return [os.getpid(), *(pid for pid in others if pid is not None)]

    def _status_report(self, answer: Callable[[dict[str, Any]], None]) -> None:
        """Answer `edgec agent status`, with fresh figures when the inference process gives them."""

        def ready(done: Any) -> None:  # noqa: ANN401 - the future
            if done.exception() is None:
                self._pipelines, self._slot_counters = done.result()["streams"], done.result()["slots"]
            body = self.health("request").model_dump(mode="json", exclude_none=True)
            connected = bool(self.uplink and self.uplink.connected)
            answer({"fleet": self.fleet, "device": self.device, "connected": connected, **body})

        self.inference.ask({"op": "report"}).add_done_callback(ready)


def run(path: Path, log_style: str | None = None) -> None:
    """Run the agent of a configuration file until it is told to stop.

    Raises:
        ConfigError: the file is not valid.
        StateError: the state folder cannot be used.
    """
    config = load_config(path)
    logs.set_up(log_style or config.agent.log, config.agent.log_level)
    Agent(path, config).run()
