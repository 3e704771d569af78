"""Jobs of a device under `/api/v1/devices/{name}/jobs`."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import select

from edgec.fleet.api.context import (
    Limit,
    Operator,
    Server,
    Viewer,
    page,
)
from edgec.fleet.devices.service import get_device
from edgec.fleet.jobs.service import job_view
from edgec.fleet.store.tables import Job
from edgec.protocol.jobs import CommandDocument

router = APIRouter(prefix="/api/v1", tags=["jobs"])


@router.get("/devices/{name}/jobs")
def list_jobs(server: Server, _who: Viewer, name: str, limit: Limit = 50) -> dict[str, Any]:
    """List jobs of a device, newest first."""
    with server.database.reading() as session:
        device = get_device(session, name)
        rows = session.scalars(
            select(Job).filter_by(device_id=device.id).order_by(Job.created_at.desc()).limit(limit)
        )
        return page([job_view(job) for job in rows], None)


class NewCommand(BaseModel):
    """A command for a device."""

    model_config = ConfigDict(extra="forbid")
    document: CommandDocument
    timeout_s: float = Field(300.0, gt=0, le=86400)


@router.post("/devices/{name}/jobs", status_code=201)
def send_command(server: Server, who: Operator, name: str, command: NewCommand) -> dict[str, Any]:
    """Queue a command; its job times out by itself."""
    document = command.document.model_dump(mode="json", exclude_none=True)
    return job_view(server.send_command(who.name, name, document, command.timeout_s))


@router.delete("/devices/{name}/jobs/{job_id}")
def cancel_job(server: Server, who: Operator, name: str, job_id: str) -> dict[str, Any]:
    """Cancel a job; one that has ended keeps its state."""
    return job_view(server.cancel_job(who.name, name, job_id))
