"""Devices under `/api/v1/devices`, and the overview."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from edgec.fleet.access.identity import Identity
from edgec.fleet.api.context import (
    Cursor,
    Limit,
    Operator,
    Server,
    SureOperator,
    Viewer,
    from_cursor,
    next_cursor,
    page,
)
from edgec.fleet.audit.log import audit
from edgec.fleet.devices.queries import counts, device_filter, summary
from edgec.fleet.devices.service import get_device
from edgec.fleet.devices.slots import slot_counts, slots_of
from edgec.fleet.groups.service import (
    get_group,
    group_query,
)
from edgec.fleet.services import Services
from edgec.fleet.store.tables import Device

router = APIRouter(prefix="/api/v1", tags=["devices"])
Text = Annotated[str, Query(max_length=128)]


@router.get("/devices")
def list_devices(
    server: Server, _who: Viewer, limit: Limit = 100, cursor: Cursor = "", search: Text = "",
    state: Text = "", target: Text = "", model: Text = "", version: Text = "", group: Text = "", label: Text = "",
) -> dict[str, Any]:  # fmt: skip
    """List devices by name, filtered; `label` is `key=value`.

    `models` has every slot of a device: what it runs, what is wanted of it, and why the two differ.
    """
    with server.database.reading() as session:
        members = group_query(get_group(session, group)) if group else select(Device)
        query = device_filter(
            members, search=search, state=state, target=target, model=model, version=version, label=label
        )
        total = session.scalar(select(func.count()).select_from(query.subquery())) or 0
        rows = list(
            session.scalars(
                query.where(Device.name > from_cursor(cursor)).order_by(Device.name).limit(limit + 1)
            )
        )
        following = next_cursor(rows, limit, lambda row: row.name)
        slots = slots_of(session, [row.id for row in rows[:limit]])
    return page([summary(row, slots[row.id]) for row in rows[:limit]], following, total=total)


@router.get("/overview")
def overview(server: Server, _who: Viewer) -> dict[str, Any]:
    """Show the fleet in numbers: states and running versions."""
    with server.database.reading() as session:
        spread = slot_counts(session)
        versions = [{"model": model, "version": version, "devices": n} for model, version, n in spread]
        return {"fleet": server.settings.fleet, "devices": counts(session), "versions": versions}


@router.get("/devices/{name}")
def show_device(server: Server, _who: Viewer, name: str) -> dict[str, Any]:
    """Show a device with its latest health."""
    with server.database.reading() as session:
        device = get_device(session, name)
        return _shown(session, device) | {"health": device.health, "boot_id": device.boot_id}


def _shown(session: Session, device: Device) -> dict[str, Any]:
    return summary(device, slots_of(session, [device.id])[device.id])


def _admitted(server: Services, who: Identity, name: str, admission: str) -> dict[str, Any]:
    server.admit(who.name, name, admission)
    with server.database.reading() as session:
        return _shown(session, get_device(session, name))


class DeviceChange(BaseModel):
    """Changes to a device."""

    model_config = ConfigDict(extra="forbid")
    labels: (
        dict[Annotated[str, Field(min_length=1, max_length=63)], Annotated[str, Field(max_length=255)]] | None
    ) = None


@router.patch("/devices/{name}")
def change_device(server: Server, who: Operator, name: str, change: DeviceChange) -> dict[str, Any]:
    """Set a device's labels."""
    with server.database.writing() as session:
        device = get_device(session, name)
        if change.labels is not None:
            device.labels = change.labels
            audit(session, who.name, "device.labels", name, labels=change.labels)
        return _shown(session, device)


@router.post("/devices/{name}/accept")
def accept_device(server: Server, who: Operator, name: str) -> dict[str, Any]:
    """Accept a pending or revoked device."""
    return _admitted(server, who, name, "accepted")


@router.post("/devices/{name}/revoke")
def revoke_device(server: Server, who: SureOperator, name: str) -> dict[str, Any]:
    """Revoke a device: its credentials stop working and its connection is closed."""
    return _admitted(server, who, name, "revoked")


@router.delete("/devices/{name}", status_code=204)
def delete_device(server: Server, who: SureOperator, name: str) -> None:
    """Delete a device and everything it reported."""
    server.delete_device(who.name, name)
