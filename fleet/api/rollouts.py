"""Models, versions and rollouts under ``/api/v1``."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Path, Query, Response
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import func, select

from edgec.fleet.access.auth import audit
from edgec.fleet.api.context import Cursor, Limit, Operator, Server, Viewer, next_cursor, number_cursor, page
from edgec.fleet.errors import Problem
from edgec.fleet.registry.manifests import delete_manifest
from edgec.fleet.rollouts.plan import Plan
from edgec.fleet.rollouts.service import act, create_rollout, get_rollout, member_counts, stage_counts, view
from edgec.fleet.server import Services
from edgec.fleet.store.tables import Device, Member, ModelVersion, Rollout
from edgec.fleet.trust.signing import target_path
from edgec.protocol.names import Name

router = APIRouter(prefix="/api/v1", tags=["models and rollouts"])
RolloutId = Annotated[int, Path(ge=1, lt=2**53)]


def artifact_view(row: ModelVersion) -> dict[str, Any]:
    """An artifact as the API shows it."""
    fields = ("model", "version", "target", "repository", "digest", "size", "pushed_at", "evidence")
    return {field: getattr(row, field) for field in fields} | {"report": bool(row.report_digest)}


@router.get("/models")
def list_models(server: Server, _who: Viewer) -> dict[str, Any]:
    """Models with the number of versions and of devices that run them."""
    with server.database.reading() as session:
        running = dict(session.execute(select(Device.model, func.count()).group_by(Device.model)).all())
        rows = session.execute(
            select(
                ModelVersion.model,
                func.count(ModelVersion.version.distinct()),
                func.max(ModelVersion.pushed_at),
            )
            .group_by(ModelVersion.model)
            .order_by(ModelVersion.model)
        )
        items = [
            {"name": model, "versions": versions, "last_pushed_at": at, "devices": running.get(model, 0)}
            for model, versions, at in rows
        ]
        return page(items, None)


@router.get("/models/{model}")
def show_model(server: Server, _who: Viewer, model: str) -> dict[str, Any]:
    """Every artifact of a model, newest first."""
    with server.database.reading() as session:
        rows = list(
            session.scalars(
                select(ModelVersion).filter_by(model=model).order_by(ModelVersion.pushed_at.desc())
            )
        )
    if not rows:
        raise Problem(404, "Model not found", f"Nothing was pushed as {model!r}.")
    return {"name": model, "artifacts": [artifact_view(row) for row in rows]}


@router.get("/models/{model}/{version}/{target}/report", response_class=Response)
def report(server: Server, _who: Viewer, model: str, version: str, target: str) -> Response:
    """The artifact's readable report, as HTML that may run nothing."""
    with server.database.reading() as session:
        row = session.scalar(select(ModelVersion).filter_by(model=model, version=version, target=target))
    if row is None or not row.report_digest:
        raise Problem(404, "No report", f"{model}:{version} for {target} has no report.")
    # It was pushed by someone and is shown on our origin: no scripts, no loading, an origin of its own.
    headers = {
        "Content-Security-Policy": "sandbox; default-src 'none'; style-src 'unsafe-inline'; img-src data:",
        "X-Content-Type-Options": "nosniff",
    }
    return Response(
        server.blobs.read(row.report_digest), headers=headers, media_type="text/html; charset=utf-8"
    )


@router.delete("/models/{model}/{version}", status_code=204)
def delete_version(server: Server, who: Operator, model: str, version: str) -> None:
    """Remove a version, all targets; its blobs go with the next garbage collection."""
    with server.database.writing() as session:
        rows = list(session.scalars(select(ModelVersion).filter_by(model=model, version=version)))
        if not rows:
            raise Problem(404, "Version not found", f"Nothing was pushed as {model}:{version}.")
        for row in rows:
            delete_manifest(session, row.repository, row.digest)
        audit(session, who.name, "version.delete", f"{model}:{version}")


class Scope(BaseModel):
    """Whom a rollout is for."""

    model_config = ConfigDict(extra="forbid")
    kind: Literal["device", "group", "all"]
    name: str = Field("", max_length=128)


class NewRollout(BaseModel):
    """A rollout to start."""

    model_config = ConfigDict(extra="forbid")
    model: Name
    version: str = Field(min_length=1, max_length=64)
    scope: Scope
    plan: Plan = Field(default_factory=lambda: Plan.model_validate({}))


def refuse_unsigned(server: Services, model: str, version: str) -> None:
    """Once trust is set up, devices would refuse an unsigned version: say so here, before they do.

    Raises:
        Problem: 409 naming the artifact that nobody signed.
    """
    if not server.trust.active:
        return
    signed = server.trust.digests()
    with server.database.reading() as session:
        for row in session.scalars(select(ModelVersion).filter_by(model=model, version=version)):
            if signed.get(target_path(model, version, row.target)) != row.digest:
                raise Problem(
                    409, "Not signed", f"Sign {row.target} first: edgec fleet keys sign {model}:{version}"
                )


@router.post("/rollouts", status_code=201)
def start_rollout(server: Server, who: Operator, body: NewRollout) -> dict[str, Any]:
    """Start a rollout; the artifact for each device is chosen by its target."""
    refuse_unsigned(server, body.model, body.version)
    with server.database.writing() as session:
        rollout = create_rollout(
            session, who.name, model=body.model, version=body.version, scope_kind=body.scope.kind,
            scope=body.scope.name, plan=body.plan,
        )  # fmt: skip
        session.flush()
        shown = view(rollout, member_counts(session, [rollout.id])[rollout.id])
    server.engine.wake()
    return shown


@router.get("/rollouts")
def list_rollouts(
    server: Server, _who: Viewer, limit: Limit = 50, cursor: Cursor = "",
    model: Annotated[str, Query(max_length=128)] = "", state: Annotated[str, Query(max_length=32)] = "",
) -> dict[str, Any]:  # fmt: skip
    """Rollouts, newest first."""
    query = select(Rollout).order_by(Rollout.id.desc()).limit(limit + 1)
    if model:
        query = query.where(Rollout.model == model)
    if state:
        query = query.where(Rollout.state == state)
    if (before := number_cursor(cursor)) is not None:
        query = query.where(Rollout.id < before)
    with server.database.reading() as session:
        rows = list(session.scalars(query))
        counts = member_counts(session, [row.id for row in rows[:limit]])
    following = next_cursor(rows, limit, lambda row: row.id)
    return page([view(row, counts[row.id]) for row in rows[:limit]], following)


@router.get("/rollouts/{rollout_id}")
def show_rollout(server: Server, _who: Viewer, rollout_id: RolloutId) -> dict[str, Any]:
    """A rollout with its stages."""
    with server.database.reading() as session:
        rollout = session.get(Rollout, rollout_id) or get_rollout(session, rollout_id)
        shown = view(rollout, member_counts(session, [rollout_id])[rollout_id])
        stages: list[dict[str, int]] = [{} for _stage in rollout.plan["stages"]]
        for stage, state, number in stage_counts(session, rollout_id):
            stages[stage][state] = number
        return shown | {"stages": stages}


@router.get("/rollouts/{rollout_id}/devices")
def list_members(
    server: Server, _who: Viewer, rollout_id: RolloutId, limit: Limit = 100, cursor: Cursor = "",
    state: Annotated[str, Query(max_length=32)] = "",
) -> dict[str, Any]:  # fmt: skip
    """How each device of a rollout fares."""
    with server.database.reading() as session:
        if session.get(Rollout, rollout_id) is None:
            get_rollout(session, rollout_id)
        query = select(Member, Device.name).join(Device, Device.id == Member.device_id)
        query = query.where(Member.rollout_id == rollout_id, Member.id > (number_cursor(cursor) or 0))
        if state:
            query = query.where(Member.state == state)
        rows = session.execute(query.order_by(Member.id).limit(limit + 1)).all()
    items = [
        {"device": name, "stage": m.stage, "state": m.state, "attempts": m.attempts, "job": m.job_id,
         "previous_version": m.previous_version, "changed_at": m.changed_at, "detail": m.detail}
        for m, name in rows[:limit]
    ]  # fmt: skip
    return page(items, next_cursor(rows, limit, lambda row: row[0].id))


@router.post("/rollouts/{rollout_id}/{action}")
def change_rollout(
    server: Server, who: Operator, rollout_id: RolloutId,
    action: Literal["pause", "resume", "approve", "abort"], take_back: bool = False,
) -> dict[str, Any]:  # fmt: skip
    """Pause, resume, approve the next stage, or abort; with ``take_back`` an abort returns devices to what
    they ran."""
    if action == "abort":
        rollout = server.engine.abort(rollout_id, who.name, take_back=take_back)
    else:
        with server.database.writing() as session:
            rollout = act(session, who.name, rollout_id, action)
    server.engine.wake()
    with server.database.reading() as session:
        return view(rollout, member_counts(session, [rollout_id])[rollout_id])
