"""The running parts of a server that the API and the dashboard call."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from sqlalchemy import delete

from edgec.fleet.access.auth import Auth
from edgec.fleet.access.oidc import Provider
from edgec.fleet.audit.log import audit
from edgec.fleet.broker.embedded import EmbeddedBroker
from edgec.fleet.broker.mosquitto import MosquittoFiles
from edgec.fleet.broker.mqtt_client import MqttClient
from edgec.fleet.broker.users import MqttUsers, NewMqttUser, create_user, delete_user
from edgec.fleet.captures.service import Captures
from edgec.fleet.certificates.service import Certificates
from edgec.fleet.devices.service import get_device, set_admission
from edgec.fleet.devices.shadows import change_shadow
from edgec.fleet.experiments.engine import ExperimentEngine
from edgec.fleet.experiments.service import NewExperiment, create_experiment, stop_experiment
from edgec.fleet.ingest.sessions import IngestSessions
from edgec.fleet.ingest.worker import Ingest
from edgec.fleet.jobs.service import cancel_job, notify, queue_command
from edgec.fleet.maintenance import Maintenance
from edgec.fleet.problems import Problem
from edgec.fleet.registry.blobs import BlobStore
from edgec.fleet.rollouts.artifacts import require_signed
from edgec.fleet.rollouts.engine import RolloutEngine
from edgec.fleet.rollouts.service import NewRollout, act, create_rollout
from edgec.fleet.settings import Settings
from edgec.fleet.store.database import Database
from edgec.fleet.store.tables import (
    Detection,
    Device,
    DeviceSlot,
    Experiment,
    Job,
    MqttUser,
    Rollout,
    RollUp,
    Shadow,
    Telemetry,
)
from edgec.fleet.trust.repository import Repository
from edgec.fleet.workers import Workers
from edgec.protocol.enrol import MqttAccess
from edgec.protocol.shadow import ShadowState, ShadowUpdate
from edgec.protocol.topics import Kind, ParsedTopic


@dataclass(slots=True)
class Services:
    """The services that the API and the dashboard call, and the parts of the server behind them.

    Attributes:
        settings: what the server was started with.
        database: rows of all services.
        auth: resolves credentials.
        oidc: the identity provider, if the settings name one.
        certificates: the fleet's authority and its certificates.
        blobs: content of the registry.
        ingest: writes what devices publish.
        rollouts: advances rollouts.
        experiments: advances experiments.
        captures: pictures for retraining.
        maintenance: retention and garbage collection.
        trust: the TUF repository.
        mqtt_client: the server's connection to the broker, to publish.
        sessions: this process's share of the sessions at an external broker; None for the embedded one.
        mqtt_access: where devices reach the broker; without credentials.
        mqtt_users: users of the broker that are no devices.
        broker: the embedded broker, if the settings name no other.
        broker_files: files for a Mosquitto broker, if the settings name a folder.
        url: where devices reach this server.
        started_at: Unix time.
        workers: the threads of the parts above.
    """

    settings: Settings
    database: Database
    auth: Auth
    oidc: Provider | None
    certificates: Certificates
    blobs: BlobStore
    ingest: Ingest
    rollouts: RolloutEngine
    experiments: ExperimentEngine
    captures: Captures
    maintenance: Maintenance
    trust: Repository
    mqtt_client: MqttClient
    sessions: IngestSessions | None
    mqtt_access: MqttAccess
    mqtt_users: MqttUsers
    broker: EmbeddedBroker | None
    broker_files: MosquittoFiles | None
    url: str
    started_at: float
    workers: Workers

    @property
    def secure(self) -> bool:
        """Whether browsers reach the server by https only, so that cookies are sent over nothing else."""
        return self.settings.secure_cookies or self.url.startswith("https:")

    def revoke_connections(self, device: str) -> None:
        """Close a device's MQTT connections, if the broker is embedded or reads our files."""
        if self.broker is not None:
            self.broker.disconnect(device)
        self.devices_changed()

    def admit(self, actor: str, name: str, admission: str) -> Device:
        """Accept or revoke a device (`accepted`, `revoked`), and update the broker.

        Raises:
            Problem: 404.
        """
        with self.database.writing() as session:
            device = set_admission(session, actor, name, admission)
        if admission == "revoked":
            self.revoke_connections(name)
        else:
            self.devices_changed()
        return device

    def delete_device(self, actor: str, name: str) -> None:
        """Delete a device and everything it reported, and close its connections.

        Raises:
            Problem: 404.
        """
        with self.database.writing() as session:
            device = get_device(session, name)
            self.captures.forget(session, device.id)
            for table in (Detection, Telemetry, RollUp, Shadow, DeviceSlot):
                session.execute(delete(table).where(table.device_id == device.id))
            session.delete(device)
            audit(session, actor, "device.delete", name)
        self.revoke_connections(name)

    def create_mqtt_user(self, actor: str, wanted: NewMqttUser) -> tuple[MqttUser, str]:
        """Create a user of the broker that is no device, and update the broker; the second value is the password.

        Raises:
            Problem: 409 when the name is taken; 422 without any right.
        """
        settings = self.settings
        with self.database.writing() as session:
            made = create_user(session, actor, wanted, fleet=settings.fleet, prefix=settings.discovery_prefix)
        self.mqtt_users.load()
        self.devices_changed()
        return made

    def delete_mqtt_user(self, actor: str, name: str) -> None:
        """Remove a user of the broker, and close its connections.

        Raises:
            Problem: 404.
        """
        with self.database.writing() as session:
            delete_user(session, actor, name)
        self.mqtt_users.load()
        self.revoke_connections(name)

    def devices_changed(self) -> None:
        """Update the access files of an external broker; returns when it has read them."""
        if self.broker_files is not None:
            self.broker_files.changed()

    def send_command(self, actor: str, device: str, document: dict[str, Any], timeout_s: float) -> Job:
        """Queue a command for a device and notify it.

        Raises:
            Problem: 404; 409 when the device is not accepted.
        """
        with self.database.writing() as session:
            job = queue_command(session, actor, device, document, timeout_s)
        self._notify(job)
        return job

    def cancel_job(self, actor: str, device: str, job_id: str) -> Job:
        """Cancel a job of a device and notify it.

        Raises:
            Problem: 404 for an unknown device or job.
        """
        with self.database.writing() as session:
            job = cancel_job(session, actor, device, job_id)
        self._notify(job)
        return job

    def _notify(self, job: Job) -> None:
        notify(self.database, self.mqtt_client, self.settings.fleet, {job.device_id})

    def change_desired(
        self, actor: str, name: str, shadow: str, patch: dict[str, Any], version: int | None
    ) -> Shadow:
        """Merge `patch` (RFC 7396) into the desired state of a shadow, and send the device the difference.

        Raises:
            Problem: 404; 409 when `version` is not the shadow's, or the patch cannot be merged.
        """
        topic = ParsedTopic(self.settings.fleet, name, Kind.SHADOW_UPDATE, shadow)
        update = ShadowUpdate(state=ShadowState(desired=patch), version=version)
        with self.database.writing() as session:
            device = get_device(session, name)
            replies = change_shadow(session, device, topic, update, time.time())
            if replies[0].topic.endswith("rejected"):
                raise Problem(409, "Not merged", replies[0].payload.decode())
            audit(session, actor, "shadow.desired", f"{name}/{shadow}", patch=patch)
            row = session.get_one(Shadow, (device.id, shadow))
        for reply in replies:
            self.mqtt_client.publish(reply.topic, reply.payload)
        return row

    def start_rollout(self, actor: str, wanted: NewRollout) -> Rollout:
        """Start a rollout.

        Raises:
            Problem: 404 for an unknown version, device or group; 409 when it is not signed, no device fits or one is
                busy with another.
        """
        with self.database.writing() as session:
            require_signed(session, self.trust, wanted.model, wanted.version)
            rollout = create_rollout(session, actor, wanted)
        self.rollouts.wake()
        return rollout

    def change_rollout(self, actor: str, rollout_id: int, action: str) -> Rollout:
        """Pause, resume or approve a rollout.

        Raises:
            Problem: 404; 409 when the rollout is not in a state for that.
        """
        with self.database.writing() as session:
            rollout = act(session, actor, rollout_id, action)
        self.rollouts.wake()
        return rollout

    def abort_rollout(self, actor: str, rollout_id: int, *, take_back: bool) -> Rollout:
        """Stop a rollout now; with `take_back` updated devices return to what they ran.

        Raises:
            Problem: 404; 409 when it has ended.
        """
        rollout = self.rollouts.abort(rollout_id, actor, take_back=take_back)
        self.rollouts.wake()
        return rollout

    def start_experiment(self, actor: str, wanted: NewExperiment) -> Experiment:
        """Start an experiment.

        Raises:
            Problem: 404 for an unknown version, device or group; 409 when it is not signed, no device fits, too many
                do, or one is in another experiment.
        """
        with self.database.writing() as session:
            require_signed(session, self.trust, wanted.model, wanted.version)
            row = create_experiment(session, actor, wanted)
        self.experiments.wake()
        return row

    def stop_experiment(self, actor: str, number: int) -> Experiment:
        """End an experiment; its devices return to their own model alone.

        Raises:
            Problem: 404; 409 when it has ended.
        """
        with self.database.writing() as session:
            row = stop_experiment(session, actor, number)
        self.experiments.wake()
        return row
