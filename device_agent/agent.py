"""The agent: assembles every part, starts and joins them, and ends them. `edgec agent run` is this."""

from __future__ import annotations

import logging
import os
import signal
import threading
import tomllib
import uuid
from pathlib import Path
from typing import Protocol

from edgec.device_agent.cloud import certificates
from edgec.device_agent.cloud import identity as ident
from edgec.device_agent.cloud.capture_uplink import CaptureUplink
from edgec.device_agent.cloud.commands import Commands
from edgec.device_agent.cloud.homeassistant import Discovery
from edgec.device_agent.cloud.jobs import JobDesk, JobReporter
from edgec.device_agent.cloud.mqtt_client import Identity, MqttClient, NoBroker, Publisher
from edgec.device_agent.cloud.outbox import Outbox
from edgec.device_agent.cloud.session import Session
from edgec.device_agent.cloud.shadow import ShadowDesk
from edgec.device_agent.config.settings import AgentConfig, load_config
from edgec.device_agent.health.budgets import BudgetKeeper
from edgec.device_agent.health.degraded import Degraded
from edgec.device_agent.health.monitor import Monitor, Sources
from edgec.device_agent.health.observer import InferenceObserver
from edgec.device_agent.health.status_socket import StatusSocket
from edgec.device_agent.inference.runner import CAPTURES_FOLDER, MEDIA_FOLDER, Inference, Settings
from edgec.device_agent.inference.streams import Streams
from edgec.device_agent.process import log as logs
from edgec.device_agent.process.loop import Loop
from edgec.device_agent.process.space import make_room
from edgec.device_agent.process.statefile import StateFile, claim_folder, explain
from edgec.device_agent.process.systemd import Notifier
from edgec.device_agent.updates.catalog import Catalog
from edgec.device_agent.updates.deployments import Deployments
from edgec.device_agent.updates.fetch import Fetchers
from edgec.device_agent.updates.host import UpdateHost
from edgec.device_agent.updates.mend import Mender
from edgec.device_agent.updates.store import ModelStore
from edgec.device_agent.updates.tuf_trust import trust_of
from edgec.device_agent.updates.updater import Updater
from edgec.device_agent.updates.watchdog import Watchdog
from edgec.device_agent.view.runner import ViewRunner
from edgec.protocol.enrol import EnrollResponse
from edgec.protocol.topics import Topics

log = logging.getLogger("agent")

_TICK_S = 1.0
_GOODBYE_S = 6.0
_BUDGET_TICKS = 5


class Server(Protocol):
    """Something that serves until it is closed."""

    def close(self) -> None:
        """Stop serving."""


class Agent:
    """One device's agent.

    Every part receives its dependencies in its constructor. Where two parts need each other, the first
    gets a function that calls the second; it is called only once the loop runs.
    """

    def __init__(self, path: Path, file_config: AgentConfig) -> None:
        self._state = file_config.agent.state
        self._lock = claim_folder(self._state)
        certificates.repair(self._state)
        enrolment = ident.load_identity(self._state)
        certificates.trust(self._state)
        self._topics = Topics(*ident.names_of(file_config, enrolment))
        self._identity = Identity(
            uuid.uuid4().hex[:12], ident.agent_version(), ident.target_name(), file_config.agent.labels
        )
        self.loop = Loop()
        self._notifier = Notifier()
        self._degraded = Degraded(lambda: self._monitor.changed())
        limits = file_config.outbox
        self._outbox = Outbox(
            self._state / "outbox.db", limits.max_bytes, limits.max_age_s, lambda: self._client.notify(),
            self._make_room,
        )  # fmt: skip
        table = tomllib.loads(path.read_text(encoding="utf-8"))
        shadow_file = StateFile(self._state / "shadow.json")
        self._shadow = ShadowDesk(self._topics, table, path, shadow_file, self._outbox, self._apply)
        config = self._shadow.config
        self._deployments = Deployments(self._state / "deployments.json")
        store = ModelStore(self._state / "models")
        self._catalog = Catalog(lambda: self._shadow.config, self._deployments, store, self._degraded.record)
        watchdog = Watchdog(self._deployments)

        self._make_uploads(enrolment)
        self._make_inference(config, watchdog)
        self._make_updates(config, enrolment, store)
        self._make_cloud(config, enrolment)
        self._make_health(watchdog)
        self._session = Session(
            self._client,
            self._outbox,
            self._jobs,
            self._shadow,
            Discovery(self._topics, self._identity.agent_version, self._state),
            self._monitor.reconnected,
            self._degraded.record,
            self._degraded.clear,
            self._identity.boot_id,
        )
        self._budget = BudgetKeeper(config.budgets)
        self._servers: list[Server] = []
        self._ticks = 0
        self._stopping = False

    def _make_uploads(self, enrolment: EnrollResponse | None) -> None:
        """What talks to the fleet server by HTTPS, on a device that is enrolled."""
        self._captures: CaptureUplink | None = None
        self._renewer: certificates.Renewer | None = None
        if enrolment is not None:
            token = enrolment.registry.token
            server = enrolment.api_url or enrolment.registry.url
            self._captures = CaptureUplink(self._state / CAPTURES_FOLDER, server, token)
            self._renewer = certificates.Renewer(self._state, server, token)

    def _make_inference(self, config: AgentConfig, watchdog: Watchdog) -> None:
        """The live view, the inference process and the streams."""
        device = self._topics.device
        self._view: ViewRunner | None = None
        if config.view.enabled:
            self._view = ViewRunner(
                self.loop, config.view, device, lambda stream, on: self._inference.watch(stream, on)
            )
        watched = self._view.watched if self._view is not None else set()
        observer = InferenceObserver(
            self._topics,
            self._outbox,
            watchdog,
            self._degraded,
            self._captures.notify if self._captures is not None else lambda: None,
            lambda topic, jpeg: self._client.publish_now(topic, jpeg),
            lambda: self._monitor.changed(),
            self._mend,
        )
        settings = Settings.of(config, self._identity.boot_id, device, self._state)
        self._inference = Inference(
            self.loop,
            settings,
            self._catalog.candidates,
            watched.__contains__,
            self._call_timeout_s,
            observer,
        )
        self._streams = Streams(self.loop, self._inference, self._view, lambda: self._monitor.changed())

    def _make_updates(self, config: AgentConfig, enrolment: EnrollResponse | None, store: ModelStore) -> None:
        """The updater and the jobs that start it."""
        self._reports = JobReporter(self._topics, self._deployments, self._outbox)
        self._host = UpdateHost(self.loop, self._inference, self._catalog, self._reports, self._job_moved)
        access = enrolment.registry if enrolment is not None else None
        self._mender = Mender(store, self._deployments, access, config.updates.download_timeout_s)
        self._updater = Updater(
            self._deployments,
            store,
            trust_of(enrolment, self._state, self._identity.target),
            config.updates,
            self._host,
            Fetchers(store, access, config.updates.download_timeout_s, self._make_room),
        )
        commands = Commands(
            self.loop,
            self._inference,
            self._streams,
            self._catalog,
            enrolled=enrolment is not None,
            report_health=lambda: self._monitor.publish("request"),
        )
        self._jobs = JobDesk(
            self._topics,
            self._deployments,
            self._reports,
            self._updater,
            self._identity.target,
            self._catalog.slot_for,
            commands.carry_out,
            lambda: self._shadow.config.models,
        )

    def _make_cloud(self, config: AgentConfig, enrolment: EnrollResponse | None) -> None:
        """The connection to the broker; its messages are handled in the loop's thread."""
        self._client: Publisher = NoBroker()
        broker = ident.broker_of(config, enrolment, certificates.files_of(self._state))
        if broker is not None:
            self._client = MqttClient(
                broker,
                self._topics,
                self._identity,
                self._outbox,
                StateFile(self._state / "session.json"),
                lambda topic, payload: self.loop.post(lambda: self._session.message(topic, payload)),
                lambda connected: self.loop.post(lambda: self._session.changed(connected)),
            )

    def _make_health(self, watchdog: Watchdog) -> None:
        """What observes all the others."""
        sources = Sources(
            self._state, self._topics, self._identity, self._inference, self._streams, self._view,
            self._deployments, self._reports, self._outbox, self._captures, self._client,
        )  # fmt: skip
        self._monitor = Monitor(
            self.loop,
            sources,
            self._degraded,
            watchdog,
            lambda: self._shadow.config.agent.health_interval_s,
        )

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
        identity, topics, config = self._identity, self._topics, self._shadow.config
        log.info(
            "agent %s, boot %s, device %s/%s",
            identity.agent_version, identity.boot_id, topics.fleet, topics.device,
        )  # fmt: skip
        if self._deployments.problem:
            log.error("the record of deployments: %s", self._deployments.problem)
        self._outbox.end_open_tracks(topics.events)
        self._reports.report_again()
        for slot in config.models:
            self._catalog.install(slot)
        for slot in config.models:
            self._inference.add_slot(slot)
        self._inference.start()
        if self._view is not None:
            self._view.start()
        for name, settings in config.streams.items():
            self._streams.add(name, settings)
        self._updater.resume()
        self._client.start()
        if self._renewer is not None:
            self._renewer.start()
        if self._captures is not None:
            self._captures.start()
        self._serve(config)
        self.loop.call_later(_TICK_S, self._tick)
        self._monitor.start()
        self._notifier.ready()

    def _serve(self, config: AgentConfig) -> None:
        """Open the metrics' port and the status socket; without them the agent works on, degraded."""
        port = config.metrics.port
        if port is not None:
            from edgec.device_agent.health.metrics import MetricsServer

            try:
                metrics = MetricsServer(port, lambda: self._monitor.latest)
            except OSError as error:
                self._degraded.record("metrics", f"port {port}: {error.strerror}")
            else:
                self._servers.append(metrics)
                log.info("metrics on http://127.0.0.1:%s/metrics", metrics.port)
        try:
            self._servers.append(StatusSocket(self.loop, self._state, self._monitor.answer_status))
        except OSError as error:
            self._degraded.record(
                "status", f"`edgec agent status` gets no answer until the next start: {explain(error)}"
            )

    def _stop(self) -> None:
        log.info("the agent stops")
        self._stopping = True
        self._monitor.stop()
        self._notifier.stopping()
        self._host.close()
        self._mender.stop()
        stopper = threading.Thread(target=self._updater.stop, daemon=True)
        stopper.start()
        # The loop keeps running: the updater may wait for an answer, and pipelines end their tracks.
        self._inference.close()
        self.loop.run_until(lambda: self._inference.stopped and not stopper.is_alive(), _GOODBYE_S)
        self._streams.close()
        if self._view is not None:
            self._view.close()
        if not self._inference.stopped:
            self._inference.kill("the agent stops")
            self.loop.run_until(lambda: self._inference.stopped, 2.0)
        self._outbox.flush()
        self._client.stop()
        if self._captures is not None:
            self._captures.stop()
        self._outbox.close()
        for server in self._servers:
            server.close()
        os.close(self._lock)
        log.info("stopped")

    # Reactions.

    def _apply(self, before: AgentConfig, after: AgentConfig) -> None:
        """Switch to another configuration. Streams and models that stay the same are not touched, and what changes
        between two frames (a candidate that joins or leaves) does not touch the capture."""
        for name in list(self._streams.runners):
            if name not in after.streams:
                self._streams.remove(name)
        for slot in before.models:
            if slot not in after.models:
                self._inference.remove_slot(slot)
        for slot, section in after.models.items():
            if section != before.models.get(slot):
                self._catalog.install(slot)
                self._inference.add_slot(slot)
        for name, settings in after.streams.items():
            if name not in self._streams.runners:
                self._streams.add(name, settings)
            elif settings != before.streams.get(name):
                self._streams.change(name, settings)
        self._session.discover()
        self._monitor.changed()

    def _make_room(self, wanted: int) -> int:
        """Delete the oldest pictures until so many bytes are free: the outbox and updates come first."""
        return make_room(self._state / MEDIA_FOLDER, wanted)

    def _mend(self, slot: str) -> None:
        """A slot's model cannot be loaded: if the disk has damaged it, fetch the damaged parts and load it again."""

        def done(problem: str) -> None:
            if problem:
                self._degraded.record(f"model {slot}", problem)
            elif not self._stopping and slot in self._inference.slots:
                self._degraded.clear(f"model {slot}")
                self._inference.load_slot(slot)

        self._mender.look(slot, lambda problem: self.loop.post(lambda: done(problem)))

    def _call_timeout_s(self) -> float:
        return max((m.timeout_s for m in self._shadow.config.models.values()), default=10.0)

    def _job_moved(self) -> None:
        self._monitor.changed()
        update = self._deployments.update
        if update is None:
            self._jobs.next()
        else:
            self._degraded.clear(f"model {update.slot}")

    def _tick(self) -> None:
        if self._stopping:
            return
        self.loop.call_later(_TICK_S, self._tick)
        self._streams.tick()
        self._inference.tick()
        self._session.versions(self._monitor.latest, self._deployments.update)
        self._notifier.alive()
        self._session.tick()
        problem = self._outbox.state().problem
        if problem:
            self._degraded.record("outbox", problem)
        else:
            self._degraded.clear("outbox")
        if errors := self.loop.errors + self._client.errors:
            self._degraded.record("agent", f"{errors} unexpected errors, see the log")
        self._ticks += 1
        if self._ticks % _BUDGET_TICKS == 0:
            self._apply_budget()

    def _apply_budget(self) -> None:
        limits = self._shadow.config.budgets
        if not (limits.cpu_percent or limits.memory_mb or limits.temperature_c):
            return
        meter = self._monitor.meter
        meter.measure(self._monitor.pids())
        measures = self._budget.check(
            self._streams.runners, meter.cpu_percent, meter.memory_bytes, meter.temperature_c
        )
        if measures:
            self._degraded.record("budget", measures)
        else:
            self._degraded.clear("budget")


def run(path: Path, log_style: str | None = None) -> None:
    """Run the agent of a configuration file until it is told to stop.

    Raises:
        ConfigError: the file is not valid.
        StateError: the state folder cannot be used.
    """
    config = load_config(path)
    logs.set_up(log_style or config.agent.log, config.agent.log_level)
    Agent(path, config).run()
