"""Models and their versions under `/api/v1/models`."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Response
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import func, select

from edgec.fleet.api.context import Operator, Server, SureOperator, Viewer, page
from edgec.fleet.devices.slots import devices_of_models
from edgec.fleet.problems import Problem
from edgec.fleet.registry.versions import all_tags, move_tag, next_version, remove_tag, tag_history, tags_of
from edgec.fleet.rollouts.artifacts import artifact_view
from edgec.fleet.rollouts.usage import delete_version as remove_version
from edgec.fleet.store.tables import ModelVersion

router = APIRouter(prefix="/api/v1", tags=["models"])


@router.get("/models")
def list_models(server: Server, _who: Viewer) -> dict[str, Any]:
    """List models with their number of versions and of devices that run them."""
    with server.database.reading() as session:
        running, tags = devices_of_models(session), all_tags(session)
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
            {
                "name": model,
                "versions": versions,
                "last_pushed_at": at,
                "devices": running.get(model, 0),
                "tags": tags.get(model, {}),
            }
            for model, versions, at in rows
        ]
        return page(items, None)


@router.get("/models/{model}")
def show_model(server: Server, _who: Viewer, model: str) -> dict[str, Any]:
    """Show a model with all its artifacts, newest first."""
    with server.database.reading() as session:
        rows = list(
            session.scalars(
                select(ModelVersion).filter_by(model=model).order_by(ModelVersion.pushed_at.desc())
            )
        )
        tags = tags_of(session, model)
    if not rows:
        raise Problem(404, "Model not found", f"Nothing was pushed as {model!r}.")
    return {"name": model, "artifacts": [artifact_view(row) for row in rows], "tags": tags}


@router.get("/models/{model}/{version}/{target}/report", response_class=Response)
def report(server: Server, _who: Viewer, model: str, version: str, target: str) -> Response:
    """Download the readable report of an artifact, as HTML without scripts."""
    with server.database.reading() as session:
        row = session.scalar(select(ModelVersion).filter_by(model=model, version=version, target=target))
    if row is None or not row.report_digest:
        raise Problem(404, "No report", f"{model}:{version} for {target} has no report.")
    # The report was pushed by a user and is shown on our origin: no scripts, no external content, a separate origin.
    headers = {
        "Content-Security-Policy": "sandbox; default-src 'none'; style-src 'unsafe-inline'; img-src data:",
        "X-Content-Type-Options": "nosniff",
    }
    return Response(
        server.blobs.read(row.report_digest), headers=headers, media_type="text/html; charset=utf-8"
    )


@router.delete("/models/{model}/{version}", status_code=204)
def delete_version(server: Server, who: SureOperator, model: str, version: str) -> None:
    """Delete a version for all targets; its blobs go with the next garbage collection. What devices run, rollouts may
    need or a tag names is kept."""
    with server.database.writing() as session:
        remove_version(session, who.name, model, version)


@router.get("/models/{model}/next-version")
def next_free_version(server: Server, _who: Viewer, model: str) -> dict[str, str]:
    """Show the number that the next version of a model gets; for a new model 1."""
    with server.database.reading() as session:
        return {"version": next_version(session, model)}


class TagBody(BaseModel):
    """Where a tag moves."""

    model_config = ConfigDict(extra="forbid")
    version: str = Field(min_length=1, max_length=128, description="A version, or another tag of the model.")


@router.get("/models/{model}/tags")
def list_tags(server: Server, _who: Viewer, model: str) -> dict[str, Any]:
    """Show the tags of a model and their latest moves, newest first."""
    with server.database.reading() as session:
        return {"tags": tags_of(session, model), "history": tag_history(session, model)}


@router.put("/models/{model}/tags/{tag}")
def put_tag(server: Server, who: Operator, model: str, tag: str, body: TagBody) -> dict[str, Any]:
    """Let a tag name a version; rollouts and experiments that are under way keep theirs."""
    with server.database.writing() as session:
        row = move_tag(session, who.name, model, tag, body.version)
        return {"tag": row.name, "version": row.version, "moved_at": row.moved_at}


@router.delete("/models/{model}/tags/{tag}", status_code=204)
def delete_tag(server: Server, who: Operator, model: str, tag: str) -> None:
    """Remove a tag; its history stays."""
    with server.database.writing() as session:
        remove_tag(session, who.name, model, tag)
