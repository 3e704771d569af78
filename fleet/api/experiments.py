"""Experiments under `/api/v1/experiments`."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Path
from sqlalchemy import select

from edgec.fleet.api.context import Cursor, Limit, Operator, Server, Viewer, next_cursor, number_cursor, page
from edgec.fleet.experiments.service import (
    NewExperiment,
    get_experiment,
    participant_counts,
    participants,
    view,
    view_now,
)
from edgec.fleet.store.tables import Experiment

router = APIRouter(prefix="/api/v1", tags=["experiments"])
ExperimentId = Annotated[int, Path(ge=1, lt=2**53)]


@router.post("/experiments", status_code=201)
def start_experiment(server: Server, who: Operator, body: NewExperiment) -> dict[str, Any]:
    """Start an experiment with a candidate version beside the running one: `shadow` only observes, `ab` acts on a
    share of the frames."""
    row = server.start_experiment(who.name, body)
    with server.database.reading() as session:
        return view(row, participant_counts(session, [row.id])[row.id])


@router.get("/experiments")
def list_experiments(
    server: Server, _who: Viewer, limit: Limit = 50, cursor: Cursor = "",
    state: Literal["", "RUNNING", "ENDING", "ENDED"] = "",
) -> dict[str, Any]:  # fmt: skip
    """List experiments, newest first, with verdict and confidence."""
    query = select(Experiment).order_by(Experiment.id.desc()).limit(limit + 1)
    if state:
        query = query.where(Experiment.state == state)
    if (before := number_cursor(cursor)) is not None:
        query = query.where(Experiment.id < before)
    with server.database.reading() as session:
        rows = list(session.scalars(query))
        counts = participant_counts(session, [row.id for row in rows[:limit]])
    following = next_cursor(rows, limit, lambda row: row.id)
    return page([view(row, counts[row.id]) for row in rows[:limit]], following)


@router.get("/experiments/{experiment_id}")
def show_experiment(server: Server, _who: Viewer, experiment_id: ExperimentId) -> dict[str, Any]:
    """Show an experiment with the finding for each criterion, and what reviewed captures say about which model is
    right."""
    with server.database.reading() as session:
        row = get_experiment(session, experiment_id)
        return view_now(session, row, participant_counts(session, [row.id])[row.id])


@router.get("/experiments/{experiment_id}/devices")
def list_participants(
    server: Server, _who: Viewer, experiment_id: ExperimentId, limit: Limit = 100, cursor: Cursor = ""
) -> dict[str, Any]:
    """List the devices of an experiment and their states."""
    with server.database.reading() as session:
        get_experiment(session, experiment_id)
        rows = participants(session, experiment_id, number_cursor(cursor) or 0, limit + 1)
    following = next_cursor(rows, limit, lambda row: row[0])
    return page([row for _key, row in rows[:limit]], following)


@router.post("/experiments/{experiment_id}/stop")
def stop(server: Server, who: Operator, experiment_id: ExperimentId) -> dict[str, Any]:
    """End an experiment now; its devices run their own model alone again."""
    row = server.stop_experiment(who.name, experiment_id)
    with server.database.reading() as session:
        return view(row, participant_counts(session, [row.id])[row.id])
