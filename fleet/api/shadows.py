"""Shadows of a device under `/api/v1/devices/{name}/shadows`."""

from __future__ import annotations

import time
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
from edgec.fleet.audit.log import audit
from edgec.fleet.devices.service import get_device
from edgec.fleet.devices.shadows import change_shadow
from edgec.fleet.problems import Problem
from edgec.fleet.store.tables import Shadow
from edgec.protocol.names import Name
from edgec.protocol.shadow import ShadowState, ShadowUpdate
from edgec.protocol.topics import Kind, ParsedTopic

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
    with server.database.writing() as session:
        device = get_device(session, name)
        topic = ParsedTopic(server.settings.fleet, name, Kind.SHADOW_UPDATE, shadow)
        update = ShadowUpdate(state=ShadowState(desired=patch.desired), version=patch.version)
        replies = change_shadow(session, device, topic, update, time.time())
        if replies[0].topic.endswith("rejected"):
            raise Problem(409, "Not merged", replies[0].payload.decode())
        audit(session, who.name, "shadow.desired", f"{name}/{shadow}", patch=patch.desired)
        row = session.get_one(Shadow, (device.id, shadow))
        view = {"name": shadow, "version": row.version, "desired": row.desired, "reported": row.reported}
    for reply in replies:
        server.mqtt_client.publish(reply.topic, reply.payload)
    return view
