"""Rollouts under `/api/v1/rollouts`."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Path, Query
from sqlalchemy import select

from edgec.fleet.api.context import Cursor, Limit, Operator, Server, Viewer, next_cursor, number_cursor, page
from edgec.fleet.rollouts.service import (
    NewRollout,
    get_rollout,
    member_counts,
    stage_counts,
    view,
)
from edgec.fleet.store.tables import Device, Member, Rollout

router = APIRouter(prefix="/api/v1", tags=["rollouts"])
RolloutId = Annotated[int, Path(ge=1, lt=2**53)]


@router.post("/rollouts", status_code=201)
def start_rollout(server: Server, who: Operator, body: NewRollout) -> dict[str, Any]:
    """Start a rollout; the artifact for each device is chosen by its target."""
    rollout = server.start_rollout(who.name, body)
    with server.database.reading() as session:
        return view(rollout, member_counts(session, [rollout.id])[rollout.id])


@router.get("/rollouts")
def list_rollouts(
    server: Server, _who: Viewer, limit: Limit = 50, cursor: Cursor = "",
    model: Annotated[str, Query(max_length=128)] = "", state: Annotated[str, Query(max_length=32)] = "",
) -> dict[str, Any]:  # fmt: skip
    """List rollouts, newest first."""
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
    """Show a rollout with its stages."""
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
    """List the devices of a rollout and their states."""
    with server.database.reading() as session:
        if session.get(Rollout, rollout_id) is None:
            get_rollout(session, rollout_id)
        query = select(Member, Device.name).join(Device, Device.id == Member.device_id)
        query = query.where(Member.rollout_id == rollout_id, Member.id > (number_cursor(cursor) or 0))
        if state:
            query = query.where(Member.state == state)
        rows = session.execute(query.order_by(Member.id).limit(limit + 1)).all()
    items = [
        {"device": name, "slot": m.slot, "stage": m.stage, "state": m.state, "attempts": m.attempts, "job": m.job_id,
         "previous_version": m.previous_version, "changed_at": m.changed_at, "detail": m.detail}
        for m, name in rows[:limit]
    ]  # fmt: skip
    return page(items, next_cursor(rows, limit, lambda row: row[0].id))


@router.post("/rollouts/{rollout_id}/{action}")
def change_rollout(
    server: Server, who: Operator, rollout_id: RolloutId,
    action: Literal["pause", "resume", "approve", "abort"], take_back: bool = False,
) -> dict[str, Any]:  # fmt: skip
    """Pause, resume, approve the next stage, or abort; with `take_back` an abort returns devices to what they ran
    before."""
    if action == "abort":
        rollout = server.abort_rollout(who.name, rollout_id, take_back=take_back)
    else:
        rollout = server.change_rollout(who.name, rollout_id, action)
    with server.database.reading() as session:
        return view(rollout, member_counts(session, [rollout_id])[rollout_id])
