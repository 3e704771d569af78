"""Slots of devices: what they report, what is wanted of them, and which of them a model belongs in."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Collection, Sequence
from typing import Any

from sqlalchemy import ColumnElement, and_, exists, func, select, update
from sqlalchemy.orm import Session

from edgec.fleet.store.tables import Device, DeviceSlot
from edgec.protocol.status import Health, ModelHealth

CANDIDATE_SLOT = "experiment-"
"""Prefix of the slots that experiments make: rollouts leave them alone."""
RUNS = frozenset({"running", "probation"})
_CHUNK = 500


def drifts() -> ColumnElement[bool]:
    """Whether a slot does not run what is wanted of it, with no job at work on it."""
    return and_(
        DeviceSlot.desired_digest != "",
        DeviceSlot.digest != DeviceSlot.desired_digest,
        DeviceSlot.job_id == "",
    )


def has_slot(*conditions: ColumnElement[bool]) -> ColumnElement[bool]:
    """Whether a device has a slot that meets all `conditions`."""
    return exists().where(DeviceSlot.device_id == Device.id, *conditions)


def slots_of(session: Session, device_ids: Collection[int]) -> dict[int, list[DeviceSlot]]:
    """The slots of devices, in the order of their names."""
    found: dict[int, list[DeviceSlot]] = defaultdict(list)
    ids = sorted(device_ids)
    for start in range(0, len(ids), _CHUNK):
        query = select(DeviceSlot).where(DeviceSlot.device_id.in_(ids[start : start + _CHUNK]))
        # The session may have read them before another process changed them.
        for row in session.scalars(
            query.order_by(DeviceSlot.slot), execution_options={"populate_existing": True}
        ):
            found[row.device_id].append(row)
    return found


def apply_report(session: Session, device: Device, health: Health, rows: list[DeviceSlot]) -> None:
    """Bring the slots of a device in line with its health message; a slot that is gone takes its wish with it.

    Args:
        session: a writing session.
        device: the sender.
        health: its message.
        rows: the slots known so far; brought up to date, too.
    """
    known = {row.slot: row for row in rows}
    for one in health.models:
        row = known.pop(one.slot, None) or session.get(DeviceSlot, (device.id, one.slot))
        if row is None:
            row = DeviceSlot(device_id=device.id, slot=one.slot)
            _report(row, one, health)
            session.add(row)
            rows.append(row)
        else:
            _report(row, one, health)
    for row in known.values():
        session.delete(row)
        rows.remove(row)


def _report(row: DeviceSlot, one: ModelHealth, health: Health) -> None:
    digest = one.manifest_digest or ""
    reported = (one.name[:128], one.version[:128], digest, one.state, one.message[:1000])
    if reported != (row.model, row.version, row.digest, row.state, row.message):
        if digest != row.digest:
            row.changed_at = time.time()
        row.model, row.version, row.digest, row.state, row.message = reported
    if not row.desired_digest or row.job_id:
        return
    if row.desired_digest != digest:
        said = one.message or _complaint(one.slot, health)
        if said or not row.reason:
            row.reason = (
                said[:1000] or f"the device runs {_named(one.name, one.version)}, which no rollout asked for"
            )


def _complaint(slot: str, health: Health) -> str:
    prefix = f"model {slot}: "
    return next((line.removeprefix(prefix) for line in health.degraded if line.startswith(prefix)), "")


def _named(model: str, version: str) -> str:
    return f"{model}:{version}" if model else "no model"


def installed(session: Session, device: Device, slot: str, model: str, version: str, digest: str) -> None:
    """Record what a job has put into a slot: health reports it, too, but only at its own interval.

    `slot` may be empty, for agents that do not name it: then the only slot, or that of the model's name.
    """
    rows = slots_of(session, [device.id])[device.id]
    row = next((row for row in rows if row.slot == (slot or model)), None)
    if row is None and not slot and len(rows) == 1:
        row = rows[0]
    if row is None and slot:
        row = DeviceSlot(device_id=device.id, slot=slot)
        session.add(row)
    if row is not None:
        row.model, row.version, row.digest = model[:128], version[:128], digest
        row.state, row.message, row.changed_at = "running", "", time.time()
        session.flush()


def given_up(session: Session, device_id: int, slot: str, digest: str) -> None:
    """An operator took a slot back to what it ran before: that is wanted now, where the slot had a wish at all."""
    rows = [row for row in slots_of(session, [device_id])[device_id] if slot in ("", row.slot)]
    if len(rows) == 1 and rows[0].desired_digest and digest and rows[0].desired_digest != digest:
        want(session, device_id, rows[0].slot, "", "", "")


def want(
    session: Session, device_id: int, slot: str, model: str, version: str, digest: str, *, job_id: str = "",
    reason: str = "",
) -> None:  # fmt: skip
    """Set what is wanted of a slot; without a `digest` nothing is. `job_id` is the job that is at work on it."""
    session.execute(
        update(DeviceSlot)
        .where(DeviceSlot.device_id == device_id, DeviceSlot.slot == slot)
        .values(
            desired_model=model,
            desired_version=version,
            desired_digest=digest,
            job_id=job_id,
            reason=reason[:1000],
        )
    )


def places(rows: Sequence[DeviceSlot], model: str, slot: str, *, named: bool) -> list[str] | None:
    """The slots of a device that a model belongs in; None while its slots are not known.

    An explicit slot if the device has it; else those that run the model or should; else the slot of the model's
    name; else the only slot, if it is empty or somebody named this device.

    Args:
        rows: the device's slots.
        model: name of the model.
        slot: the slot to use; empty to find it.
        named: whether the device was named, rather than found in a group.
    """
    if not rows:
        return None
    own = [row for row in rows if not row.slot.startswith(CANDIDATE_SLOT)]
    if slot:
        return [row.slot for row in own if row.slot == slot]
    if using := [row.slot for row in own if model in (row.model, row.desired_model)]:
        return using
    if same := [row.slot for row in own if row.slot == model]:
        return same
    if len(own) == 1 and (named or not own[0].model):
        return [own[0].slot]
    return []


def no_place(rows: Sequence[DeviceSlot], slot: str) -> str:
    """Why a device has no place for a model."""
    own = [row for row in rows if not row.slot.startswith(CANDIDATE_SLOT)]
    have = ", ".join(
        f"{row.slot} ({_named(row.model, row.version) if row.model else 'empty'})" for row in own
    )
    missing = f"no slot {slot}" if slot else "no slot for it"
    return f"{missing}; it has {have}" if have else missing


def slot_counts(session: Session) -> list[tuple[str, str, int]]:
    """Model, version and number of devices that run it, the most frequent first."""
    number = func.count(DeviceSlot.device_id.distinct())
    rows = session.execute(
        select(DeviceSlot.model, DeviceSlot.version, number)
        .where(DeviceSlot.version != "", DeviceSlot.slot.not_like(f"{CANDIDATE_SLOT}%"))
        .group_by(DeviceSlot.model, DeviceSlot.version)
        .order_by(number.desc(), DeviceSlot.model, DeviceSlot.version)
        .limit(20)
    )
    return [(model, version, devices) for model, version, devices in rows]


def devices_of_models(session: Session) -> dict[str, int]:
    """How many devices run each model."""
    rows = session.execute(
        select(DeviceSlot.model, func.count(DeviceSlot.device_id.distinct())).group_by(DeviceSlot.model)
    )
    return dict(rows.all())


def slot_view(row: DeviceSlot) -> dict[str, Any]:
    """A slot as the API represents it. `drift` is false while a job is at work on it (`updating`)."""
    wanted = bool(row.desired_digest)
    return {
        "slot": row.slot,
        "model": row.model,
        "version": row.version,
        "digest": row.digest,
        "state": row.state,
        "message": row.message,
        "desired": (
            {"model": row.desired_model, "version": row.desired_version, "digest": row.desired_digest}
            if wanted
            else None
        ),
        "updating": bool(row.job_id),
        "drift": wanted and row.digest != row.desired_digest and not row.job_id,
        "reason": row.reason,
    }
