"""The database's tables. Importing one registers all: their foreign keys name each other."""

from edgec.fleet.store.tables.access import AccessToken, Attempts, Audit, MqttUser, SignInFlow, WebSession
from edgec.fleet.store.tables.base import Base
from edgec.fleet.store.tables.captures import Capture
from edgec.fleet.store.tables.certificates import Certificate
from edgec.fleet.store.tables.devices import Device, DeviceSlot, EnrollToken, Group, Shadow
from edgec.fleet.store.tables.experiments import Experiment, Participant, Reading
from edgec.fleet.store.tables.leases import Lease
from edgec.fleet.store.tables.registry import (
    Manifest,
    ManifestBlob,
    ModelTag,
    ModelVersion,
    RepositoryBlob,
    RetiredVersion,
    Tag,
    TagMove,
)
from edgec.fleet.store.tables.rollouts import Job, Member, Rollout
from edgec.fleet.store.tables.telemetry import Detection, RollUp, Telemetry

__all__ = [
    "AccessToken",
    "Attempts",
    "Audit",
    "Base",
    "Capture",
    "Certificate",
    "Detection",
    "Device",
    "DeviceSlot",
    "EnrollToken",
    "Experiment",
    "Group",
    "Job",
    "Lease",
    "Manifest",
    "ManifestBlob",
    "Member",
    "ModelTag",
    "ModelVersion",
    "MqttUser",
    "Participant",
    "Reading",
    "RepositoryBlob",
    "RetiredVersion",
    "RollUp",
    "Rollout",
    "Shadow",
    "SignInFlow",
    "Tag",
    "TagMove",
    "Telemetry",
    "WebSession",
]
