"""Messages of one batch: decoded outside the database, applied within one transaction."""

from __future__ import annotations

import logging
from collections import Counter
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from sqlalchemy import select, update
from sqlalchemy.orm import Session, defer

from edgec.fleet.audit.log import audit
from edgec.fleet.broker.messages import Inbound, Reply
from edgec.fleet.devices.presence import apply_heard, apply_status
from edgec.fleet.devices.shadows import apply_shadow_get, apply_shadow_update
from edgec.fleet.devices.slots import apply_report, slots_of
from edgec.fleet.jobs.updates import apply_job_update
from edgec.fleet.store.bulk import insert_new
from edgec.fleet.store.tables import Detection, Device, DeviceSlot, Job, Telemetry
from edgec.fleet.telemetry.rows import detection_row, telemetry_rows, update_device
from edgec.protocol.codec import decode, encode
from edgec.protocol.errors import ProtocolError
from edgec.protocol.events import DetectionEvent
from edgec.protocol.status import Health
from edgec.protocol.topics import Kind, ParsedTopic, Topics, parse

SEEN_PACE_S = 5.0
"""Resolution of `last_seen`: not every message is worth an update."""
_parse = lru_cache(65_536)(parse)
log = logging.getLogger(__name__)


@dataclass(slots=True)
class Prepared:
    """A message decoded without the database: its topic and body, or what is wrong with it."""

    message: Inbound
    topic: ParsedTopic | None = None
    body: Health | DetectionEvent | None = None
    text: str = ""
    """An event's data as the JSON that is stored."""
    kind: str = "topic"
    error: str = ""


def prepare(message: Inbound) -> Prepared:
    """Decode a message. Violations of the protocol are reported in `error`."""
    read = Prepared(message)
    try:
        topic = read.topic = _parse(message.topic)
        read.kind = topic.kind.name.lower()
        if b"\\u0000" in message.payload:
            raise ProtocolError("a NUL character, which text cannot contain")
        if topic.kind is Kind.HEALTH:
            read.body = decode(Health, message.payload)
        elif topic.kind is Kind.EVENT:
            event = read.body = decode(DetectionEvent, message.payload)
            read.text = event.data.model_dump_json(exclude_none=True)
    except (ValueError, RecursionError) as error:
        read.error = str(error) or type(error).__name__
    return read


@dataclass(slots=True)
class IngestCounters:
    """Counters since the start, for metrics.

    Attributes:
        messages: messages written, by kind.
        rejected: messages rejected, by reason.
        batches: transactions.
        seconds: time spent in them.
    """

    messages: Counter[str] = field(default_factory=Counter)
    rejected: Counter[str] = field(default_factory=Counter)
    batches: int = 0
    seconds: float = 0.0


@dataclass(slots=True)
class _Sender:
    """The columns needed of a device that sent only detections: loading its whole row would cost more than
    storing them."""

    id: int
    last_seen: float | None


class Batch:
    """Applies messages within one transaction, and collects what has to be published after it."""

    def __init__(self, counters: IngestCounters) -> None:
        self._counters = counters
        self.replies: list[Reply] = []
        self.notify: set[int] = set()
        self.jobs_changed = False
        self._written: Counter[str] = Counter()
        self._rejected: Counter[str] = Counter()
        self._detections: list[dict[str, Any]] = []
        self._telemetry: list[dict[str, Any]] = []
        self._seen: dict[int, float] = {}
        self._slots: dict[int, list[DeviceSlot]] = {}

    def apply(self, session: Session, messages: list[Prepared], fleet: str) -> None:
        """Apply `messages` in order. Those that violate the protocol are counted and skipped."""
        ours = [item for item in messages if item.topic is not None and item.topic.fleet == fleet]
        changed = {item.topic.device for item in ours if item.topic and item.topic.kind is not Kind.EVENT}
        devices: dict[str, Device | _Sender] = dict(self._devices(session, changed))
        devices |= self._senders(session, {item.topic.device for item in ours if item.topic} - changed)
        reporting = {item.topic.device for item in ours if item.topic and isinstance(item.body, Health)}
        senders = [devices[name].id for name in reporting & devices.keys()]
        self._slots = slots_of(session, senders)
        jobs = {item.topic.name for item in ours if item.topic and item.topic.kind is Kind.JOB_UPDATE}
        # Referenced here, so that the session still has them when they are looked up by key.
        query = select(Job).where(Job.id.in_(jobs)).order_by(Job.id).with_for_update()
        held = list(session.scalars(query)) if jobs else []
        for item in messages:
            if item.error:
                self._reject(item.kind, item.error)
                continue
            topic = item.topic
            if topic is None or topic.fleet != fleet:
                continue
            device = devices.get(topic.device)
            if device is None:
                self._rejected["unknown device"] += 1
                continue
            try:
                self._one(session, device, topic, item)
                self._written[item.kind] += 1
            except ProtocolError as error:
                self._reject(item.kind, str(error))
        session.flush()
        del held
        self._heard(session)
        insert_new(session, Detection, self._detections)
        insert_new(session, Telemetry, self._telemetry)

    @staticmethod
    def _devices(session: Session, names: set[str]) -> dict[str, Device]:
        """The accepted devices of these names, locked: another process, which has other messages of theirs, must
        not change them meanwhile. They are locked in the order of their keys, so that two processes cannot
        deadlock."""
        if not names:
            return {}
        query = (
            select(Device)
            .where(Device.name.in_(names), Device.admission == "accepted")
            .options(defer(Device.health), defer(Device.labels))
            .order_by(Device.id)
        )
        return {device.name: device for device in session.scalars(query.with_for_update())}

    @staticmethod
    def _senders(session: Session, names: set[str]) -> dict[str, _Sender]:
        """The accepted devices of these names, which sent only detections."""
        if not names:
            return {}
        query = select(Device.id, Device.name, Device.last_seen)
        rows = session.execute(query.where(Device.name.in_(names), Device.admission == "accepted"))
        return {name: _Sender(number, last_seen) for number, name, last_seen in rows}

    def _heard(self, session: Session) -> None:
        """Update `last_seen` of the senders. Rows locked by another process are skipped: it has just heard of
        these devices."""
        if self._seen:
            free = select(Device.id).where(Device.id.in_(self._seen)).with_for_update(skip_locked=True)
            seen = max(self._seen.values())
            session.execute(
                update(Device).where(Device.id.in_(free)).values(last_seen=seen),
                execution_options={"synchronize_session": False},
            )

    def count(self) -> None:
        """Add the messages written and rejected to the counters, once they are committed."""
        self._counters.messages.update(self._written)
        self._counters.rejected.update(self._rejected)

    def _reject(self, kind: str, error: str) -> None:
        self._rejected[kind] += 1
        log.debug("message left out: %s", error)

    def _one(self, session: Session, device: Device | _Sender, topic: ParsedTopic, item: Prepared) -> None:
        message, now = item.message, item.message.received_at
        if isinstance(item.body, DetectionEvent):
            self._detections.append(detection_row(device.id, topic.name, item.body, item.text, now))
            if now > (device.last_seen or 0.0) + SEEN_PACE_S:
                device.last_seen = now
                if isinstance(device, _Sender):
                    self._seen[device.id] = now
            return
        assert isinstance(device, Device), "only detections come from a mere sender"
        if topic.kind is Kind.STATUS:
            # An empty payload clears a retained status.
            if message.payload:
                self._status(session, device, topic, message.payload, now)
            return
        if now > (device.last_seen or 0.0) + SEEN_PACE_S:
            device.last_seen = now
        match topic.kind:
            case Kind.HEALTH if isinstance(item.body, Health):
                if not apply_heard(device, item.body, now):
                    return
                apply_report(session, device, item.body, self._slots[device.id])
                main = update_device(device, item.body)
                self._telemetry += telemetry_rows(device, item.body, main, now)
            case Kind.JOBS_GET:
                self.notify.add(device.id)
            case Kind.JOB_UPDATE:
                self.replies.append(apply_job_update(session, device, topic, message.payload, now))
                self.notify.add(device.id)
                self.jobs_changed = True
            case Kind.SHADOW_GET:
                self.replies.append(apply_shadow_get(session, device, topic))
            case Kind.SHADOW_UPDATE:
                self.replies += apply_shadow_update(session, device, topic, message.payload, now)
            case _:
                raise ProtocolError(f"{message.topic} is for devices")

    def _status(
        self, session: Session, device: Device, topic: ParsedTopic, payload: bytes, now: float
    ) -> None:
        arrival = apply_status(device, payload, now)
        if arrival.online:
            self.notify.add(device.id)
        if arrival.notice is not None:
            name = Topics(topic.fleet, device.name).status_rival
            self.replies.append(Reply(name, encode(arrival.notice)))
        if arrival.entry:
            log.warning("two processes use the identity of %s: %s", device.name, arrival.entry)
            audit(session, "fleet", "device.duplicate", device.name, **arrival.entry)
