"""Devices and groups under ``/api/v1``."""

from __future__ import annotations

import time
from typing import Annotated, Any

from fastapi import APIRouter, Query
from pydantic import BaseModel, ConfigDict, Field, JsonValue
from sqlalchemy import Select, delete, func, select

from edgec.fleet.access.auth import Identity, audit
from edgec.fleet.api.context import (
    Cursor,
    Limit,
    Operator,
    Server,
    Viewer,
    from_cursor,
    next_cursor,
    number_cursor,
    page,
)
from edgec.fleet.devices.service import (
    check_selector,
    counts,
    device_filter,
    get_device,
    get_group,
    group_counts,
)
from edgec.fleet.errors import Problem
from edgec.fleet.ingest.inbox import change_shadow
from edgec.fleet.jobs.service import create_job, end_job, execution, notify
from edgec.fleet.server import Services
from edgec.fleet.store.tables import Detection, Device, Group, Job, RollUp, Sample, Shadow
from edgec.protocol.jobs import CommandDocument
from edgec.protocol.names import Name
from edgec.protocol.shadow import ShadowState, ShadowUpdate
from edgec.protocol.topics import Kind, ParsedTopic

router = APIRouter(prefix="/api/v1", tags=["devices"])
Text = Annotated[str, Query(max_length=128)]


def summary(device: Device) -> dict[str, Any]:
    """A device as lists show it."""
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
        "last_seen": device.last_seen,
        "enrolled_at": device.enrolled_at,
    }


def job_view(job: Job) -> dict[str, Any]:
    """A job as the API shows it."""
    view: dict[str, Any] = execution(job).model_dump(mode="json")
    return view | {"purpose": job.purpose, "rollout": job.rollout_id, "finished_at": job.finished_at}


def label_filter(query: Select[Any], label: str) -> Select[Any]:
    """Keep the devices whose label is as ``key=value`` says; an empty text keeps all."""
    key, _, value = label.partition("=")
    return query.where(Device.labels[key].as_string() == value) if key else query


@router.get("/devices")
def list_devices(
    server: Server, _who: Viewer, limit: Limit = 100, cursor: Cursor = "", search: Text = "",
    state: Text = "", target: Text = "", version: Text = "", group: Text = "", label: Text = "",
) -> dict[str, Any]:  # fmt: skip
    """Devices by name, filtered; ``label`` is ``key=value``."""
    with server.database.reading() as session:
        chosen = get_group(session, group) if group else None
        query = label_filter(device_filter(search, state, target, version, chosen), label)
        total = session.scalar(select(func.count()).select_from(query.subquery())) or 0
        rows = list(
            session.scalars(
                query.where(Device.name > from_cursor(cursor)).order_by(Device.name).limit(limit + 1)
            )
        )
    following = next_cursor(rows, limit, lambda row: row.name)
    return page([summary(row) for row in rows[:limit]], following, total=total)


@router.get("/overview")
def overview(server: Server, _who: Viewer) -> dict[str, Any]:
    """The fleet in numbers: states and version spread."""
    with server.database.reading() as session:
        spread = session.execute(
            select(Device.model, Device.version, func.count())
            .where(Device.version != "")
            .group_by(Device.model, Device.version)
            .order_by(func.count().desc())
            .limit(20)
        )
        versions = [{"model": model, "version": version, "devices": n} for model, version, n in spread]
        return {"fleet": server.settings.fleet, "devices": counts(session), "versions": versions}


@router.get("/devices/{name}")
def show_device(server: Server, _who: Viewer, name: str) -> dict[str, Any]:
    """A device with its latest health."""
    with server.database.reading() as session:
        device = get_device(session, name)
        return summary(device) | {"health": device.health, "boot_id": device.boot_id}


class DeviceChange(BaseModel):
    """What operators change about a device."""

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
        return summary(device)


@router.post("/devices/{name}/accept")
def accept_device(server: Server, who: Operator, name: str) -> dict[str, Any]:
    """Let a pending or revoked device in."""
    return summary(server.admit(who.name, name, "accepted"))


@router.post("/devices/{name}/revoke")
def revoke_device(server: Server, who: Operator, name: str) -> dict[str, Any]:
    """Shut a device out: its credentials stop working and its connection is closed."""
    return summary(server.admit(who.name, name, "revoked"))


@router.delete("/devices/{name}", status_code=204)
def delete_device(server: Server, who: Operator, name: str) -> None:
    """Forget a device and all that it reported."""
    with server.database.writing() as session:
        device = get_device(session, name)
        server.captures.forget(session, device.id)
        for table in (Detection, Sample, RollUp, Shadow):
            session.execute(delete(table).where(table.device_id == device.id))
        session.delete(device)
        audit(session, who.name, "device.delete", name)
    server.revoke_connections(name)


@router.get("/devices/{name}/detections")
def list_detections(
    server: Server, _who: Viewer, name: str, limit: Limit = 100, cursor: Cursor = "", stream: Text = "",
    label: Text = "", since: float | None = None, until: float | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Detections of a device, newest first."""
    with server.database.reading() as session:
        device = get_device(session, name)
        query = select(Detection).where(Detection.device_id == device.id)
        if stream:
            query = query.where(Detection.stream == stream)
        if label:
            query = query.where(Detection.label == label)
        if since is not None:
            query = query.where(Detection.at >= since)
        if until is not None:
            query = query.where(Detection.at < until)
        if (before := number_cursor(cursor)) is not None:
            query = query.where(Detection.id < before)
        rows = list(session.scalars(query.order_by(Detection.id.desc()).limit(limit + 1)))
    items = [
        {"id": r.event_id, "stream": r.stream, "at": r.at, "phase": r.kind, "label": r.label,
         "score": r.score, "track_id": r.track_id, "version": r.version, "data": r.data}
        for r in rows[:limit]
    ]  # fmt: skip
    return page(items, next_cursor(rows, limit, lambda row: row.id))


@router.get("/devices/{name}/samples")
def list_samples(
    server: Server, _who: Viewer, name: str, stream: Text = "", since: float | None = None, limit: Limit = 500
) -> dict[str, Any]:
    """Health numbers of a device over time, oldest first; ``stream`` empty is the device as a whole."""
    with server.database.reading() as session:
        device = get_device(session, name)
        begin = time.time() - 3600 if since is None else since
        query = select(Sample).where(
            Sample.device_id == device.id, Sample.stream == stream, Sample.at >= begin
        )
        rows = list(session.scalars(query.order_by(Sample.at.desc()).limit(limit)))[::-1]
    fields = (
        "at",
        "version",
        "fps",
        "latency_ms",
        "dropped",
        "errors",
        "cpu_percent",
        "memory_bytes",
        "temperature_c",
    )
    return page([{field: getattr(row, field) for field in fields} for row in rows], None)


@router.get("/devices/{name}/jobs")
def list_jobs(server: Server, _who: Viewer, name: str, limit: Limit = 50) -> dict[str, Any]:
    """Jobs of a device, newest first."""
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
    """Queue a command; its job ends by itself when its time is up."""
    with server.database.writing() as session:
        device = get_device(session, name)
        if device.admission != "accepted":
            raise Problem(409, "Not accepted", f"The device {name} is {device.admission}.")
        document = command.document.model_dump(mode="json", exclude_none=True)
        job = create_job(session, device, document, purpose="command", timeout_s=command.timeout_s)
        audit(session, who.name, "device.command", name, operation=document["operation"])
        session.flush()
        view = job_view(job)
    notify(server.database, server.link, server.settings.fleet, {device.id})
    return view


@router.delete("/devices/{name}/jobs/{job_id}")
def cancel_job(server: Server, who: Operator, name: str, job_id: str) -> dict[str, Any]:
    """Take a job back; one that has ended keeps its end."""
    with server.database.writing() as session:
        device = get_device(session, name)
        job = session.scalar(select(Job).filter_by(id=job_id, device_id=device.id))
        if job is None:
            raise Problem(404, "Job not found", f"The device {name} has no job {job_id!r}.")
        end_job(job, "CANCELED", time.time(), f"canceled by {who.name}")
        audit(session, who.name, "job.cancel", job_id)
        view = job_view(job)
    notify(server.database, server.link, server.settings.fleet, {device.id})
    return view


@router.get("/devices/{name}/shadows")
def list_shadows(server: Server, _who: Viewer, name: str) -> dict[str, Any]:
    """The named shadows of a device: desired, reported, version."""
    with server.database.reading() as session:
        device = get_device(session, name)
        rows = session.scalars(select(Shadow).filter_by(device_id=device.id).order_by(Shadow.name))
        fields = ("name", "version", "desired", "reported", "updated_at")
        return page([{field: getattr(row, field) for field in fields} for row in rows], None)


class Desired(BaseModel):
    """A merge patch (RFC 7396) of what a device should be."""

    model_config = ConfigDict(extra="forbid")
    desired: dict[str, JsonValue]
    version: int | None = Field(None, ge=0)


@router.patch("/devices/{name}/shadows/{shadow}")
def patch_shadow(server: Server, who: Operator, name: str, shadow: Name, patch: Desired) -> dict[str, Any]:
    """Change what is desired; the device is told the difference."""
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
        server.link.publish(reply.topic, reply.payload)
    return view


class GroupBody(BaseModel):
    """A group: named devices, and a selector (labels, target, version, model, state; all keys must match)."""

    model_config = ConfigDict(extra="forbid")
    description: str = Field("", max_length=255)
    devices: list[Name] = Field(default_factory=list, max_length=100_000)
    selector: dict[str, JsonValue] = Field(default_factory=dict)


@router.get("/groups")
def list_groups(server: Server, _who: Viewer) -> dict[str, Any]:
    """Every group with how many devices it has now."""
    with server.database.reading() as session:
        groups = session.scalars(select(Group).order_by(Group.name)).all()
        numbers = group_counts(session, groups)
        return page([_group(group) | {"count": numbers[group.id]} for group in groups], None)


def _group(group: Group) -> dict[str, Any]:
    fields = ("name", "description", "devices", "selector", "created_at")
    return {field: getattr(group, field) for field in fields}


@router.put("/groups/{name}")
def put_group(server: Server, who: Operator, name: Name, body: GroupBody) -> dict[str, Any]:
    """Make a group, or replace it."""
    return save_group(server, who, name, body)


def save_group(server: Services, who: Identity, name: str, body: GroupBody) -> dict[str, Any]:
    """Make or replace a group.

    Raises:
        Problem: 422 for a selector that makes no sense.
    """
    check_selector(body.selector)
    with server.database.writing() as session:
        group = session.scalar(select(Group).filter_by(name=name)) or Group(name=name)
        group.description, group.devices = body.description, list(body.devices)
        group.selector = dict(body.selector)
        session.add(group)
        session.flush()
        audit(session, who.name, "group.put", name)
        return _group(group)


@router.delete("/groups/{name}", status_code=204)
def delete_group(server: Server, who: Operator, name: str) -> None:
    """Remove a group; its devices stay."""
    with server.database.writing() as session:
        session.delete(get_group(session, name))
        audit(session, who.name, "group.delete", name)
