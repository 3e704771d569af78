"""Queries over devices: filters and counts."""

from __future__ import annotations

import time
from typing import Any

from sqlalchemy import Select, func, select
from sqlalchemy.orm import Session

from edgec.fleet.devices.presence import duplicate
from edgec.fleet.store.search import contains
from edgec.fleet.store.tables import Device


def device_filter(
    query: Select[Any], *, search: str = "", state: str = "", target: str = "", version: str = "", label: str = ""
) -> Select[Any]:  # fmt: skip
    """Narrow a query over devices by filters.

    Args:
        query: selects devices, such as those of a group.
        search: part of a name or target, in any case.
        state: an admission, a presence, or `drift`; empty for all.
        target: exact name of a target; empty for all.
        version: exact version of the model that runs; empty for all.
        label: `key=value`; empty for all.
    """
    if search:
        query = query.where(contains(search, Device.name, Device.target))
    if state in ("pending", "revoked"):
        query = query.where(Device.admission == state)
    elif state == "drift":
        query = query.where(Device.desired_version != "", Device.version != Device.desired_version)
    elif state:
        query = query.where(Device.state == state)
    if target:
        query = query.where(Device.target == target)
    if version:
        query = query.where(Device.version == version)
    key, _, value = label.partition("=")
    return query.where(Device.labels[key].as_string() == value) if key else query


def counts(session: Session) -> dict[str, int]:
    """How many devices are in each state, plus `total`, `pending` and `drift`."""
    by_state = dict(session.execute(select(Device.state, func.count()).group_by(Device.state)).all())
    pending = session.scalar(select(func.count()).where(Device.admission == "pending")) or 0
    drift = session.scalar(
        select(func.count()).where(Device.desired_version != "", Device.version != Device.desired_version)
    )
    known = {name: by_state.get(name, 0) for name in ("online", "stopped", "offline", "never")}
    return {**known, "total": sum(by_state.values()), "pending": pending, "drift": drift or 0}


def summary(device: Device) -> dict[str, Any]:
    """A device as it appears in lists."""
    return {
        "name": device.name,
        "admission": device.admission,
        "state": device.state,
        "target": device.target,
        "agent_version": device.agent_version,
        "labels": device.labels,
        "model": device.model,
        "version": device.version,
        "desired_model": device.desired_model,
        "desired_version": device.desired_version,
        "drift": bool(device.desired_version) and device.version != device.desired_version,
        "fps": device.fps,
        "latency_ms": device.latency_ms,
        "duplicate": duplicate(device, time.time()),
        "last_seen": device.last_seen,
        "enrolled_at": device.enrolled_at,
    }
