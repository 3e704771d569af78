"""Models and their versions under `/api/v1/models`."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Response
from sqlalchemy import func, select

from edgec.fleet.api.context import Server, SureOperator, Viewer, page
from edgec.fleet.audit.log import audit
from edgec.fleet.problems import Problem
from edgec.fleet.registry.manifests import delete_manifest
from edgec.fleet.rollouts.artifacts import artifact_view
from edgec.fleet.store.tables import Device, ModelVersion

router = APIRouter(prefix="/api/v1", tags=["models"])


@router.get("/models")
def list_models(server: Server, _who: Viewer) -> dict[str, Any]:
    """List models with their number of versions and of devices that run them."""
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
    """Show a model with all its artifacts, newest first."""
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
    """Delete a version for all targets; its blobs go with the next garbage collection."""
    with server.database.writing() as session:
        rows = list(session.scalars(select(ModelVersion).filter_by(model=model, version=version)))
        if not rows:
            raise Problem(404, "Version not found", f"Nothing was pushed as {model}:{version}.")
        for row in rows:
            delete_manifest(session, row.repository, row.digest)
        audit(session, who.name, "version.delete", f"{model}:{version}")
