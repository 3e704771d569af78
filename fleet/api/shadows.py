"""Shadows of a device under `/api/v1/devices/{name}/shadows`."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field, JsonValue
from sqlalchemy import select

from edgec.fleet.api.context import (
    Operator,
    Server,
    Viewer,
    page,
)
from edgec.fleet.devices.service import get_device
from edgec.fleet.store.tables import Shadow
from edgec.protocol.names import Name

router = APIRouter(prefix="/api/v1", tags=["shadows"])


@router.get("/devices/{name}/shadows")
def list_shadows(server: Server, _who: Viewer, name: str) -> dict[str, Any]:
    """List the named shadows of a device: desired, reported, version."""
    with server.database.reading() as session:
        device = get_device(session, name)
        rows = session.scalars(select(Shadow).filter_by(device_id=device.id).order_by(Shadow.name))
        fields = ("name", "version", "desired", "reported", "updated_at")
        return page([{field: getattr(row, field) for field in fields} for row in rows], None)


class Desired(BaseModel):
    """A merge patch (RFC 7396) of the desired state of a device."""

    model_config = ConfigDict(extra="forbid")
    desired: dict[str, JsonValue]
    version: int | None = Field(None, ge=0)


@router.patch("/devices/{name}/shadows/{shadow}")
def patch_shadow(server: Server, who: Operator, name: str, shadow: Name, patch: Desired) -> dict[str, Any]:
    """Change the desired state; the device is sent the difference."""
    row = server.change_desired(who.name, name, shadow, patch.desired, patch.version)
    return {"name": shadow, "version": row.version, "desired": row.desired, "reported": row.reported}
