"""Queries over devices: filters and counts."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from sqlalchemy import Select, func, select
from sqlalchemy.orm import Session

from edgec.fleet.devices.presence import duplicate
from edgec.fleet.devices.slots import drifts, has_slot, slot_view
from edgec.fleet.store.search import contains
from edgec.fleet.store.tables import Device, DeviceSlot


def device_filter(
    query: Select[Any], *, search: str = "", state: str = "", target: str = "", model: str = "", version: str = "",
    label: str = "",
) -> Select[Any]:  # fmt: skip
    """Narrow a query over devices by filters.

    Args:
        query: selects devices, such as those of a group.
        search: part of a name or target, in any case.
        state: an admission, a presence, or `drift`; empty for all.
        target: exact name of a target; empty for all.
        model: name of a model that runs in one of the device's slots; empty for all.
        version: exact version of a model that runs, of `model` if that is given; empty for all.
        label: `key=value`; empty for all.
    """
    if search:
        query = query.where(contains(search, Device.name, Device.target))
    if state in ("pending", "revoked"):
        query = query.where(Device.admission == state)
    elif state == "drift":
        query = query.where(has_slot(drifts()))
    elif state:
        query = query.where(Device.state == state)
    if target:
        query = query.where(Device.target == target)
    runs = [DeviceSlot.model == model] * bool(model) + [DeviceSlot.version == version] * bool(version)
    if runs:
        query = query.where(has_slot(*runs))
    key, _, value = label.partition("=")
    return query.where(Device.labels[key].as_string() == value) if key else query


def counts(session: Session) -> dict[str, int]:
    """How many devices are in each state, plus `total`, `pending` and `drift`."""
    by_state = dict(session.execute(select(Device.state, func.count()).group_by(Device.state)).all())
    pending = session.scalar(select(func.count()).where(Device.admission == "pending")) or 0
    drift = session.scalar(select(func.count(DeviceSlot.device_id.distinct())).where(drifts()))
    known = {name: by_state.get(name, 0) for name in ("online", "stopped", "offline", "never")}
    return {**known, "total": sum(by_state.values()), "pending": pending, "drift": drift or 0}


def summary(device: Device, slots: Sequence[DeviceSlot] = ()) -> dict[str, Any]:
    """A device with its slots as it appears in lists. `model`, `version`, `desired_model` and `desired_version` are
    those of its main model or, where one differs from what is wanted, of that; `models` has all."""
    models = [slot_view(row) for row in slots]
    main = next((one for one in models if one["drift"]), None) or next(
        (one for one in models if one["model"] == device.model and one["desired"]), None
    )
    desired = (main or {}).get("desired") or {"model": "", "version": ""}
    return {
        "name": device.name,
        "admission": device.admission,
        "state": device.state,
        "target": device.target,
        "agent_version": device.agent_version,
        "labels": device.labels,
        "models": models,
        "model": device.model,
        "version": device.version,
        "desired_model": desired["model"],
        "desired_version": desired["version"],
        "drift": any(one["drift"] for one in models),
        "fps": device.fps,
        "latency_ms": device.latency_ms,
        "duplicate": duplicate(device, time.time()),
        "last_seen": device.last_seen,
        "enrolled_at": device.enrolled_at,
    }
