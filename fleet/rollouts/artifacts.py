"""Artifacts of a model version, and which of them a device gets."""

from __future__ import annotations

from functools import cache
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from edgec.fleet.problems import Problem
from edgec.fleet.registry.versions import resolve
from edgec.fleet.store.tables import ModelVersion
from edgec.fleet.trust.repository import Repository
from edgec.fleet.trust.signing import target_path
from edgec.targets import Target, list_targets


def artifacts_of(session: Session, model: str, version: str) -> list[ModelVersion]:
    """Every artifact of a version.

    Raises:
        Problem: 404 when nothing was pushed under that name.
    """
    found = list(session.scalars(select(ModelVersion).filter_by(model=model, version=version)))
    if not found:
        raise Problem(
            404, "No such version", f"Nothing was pushed as {model}:{version}. Use 'edgec push' first."
        )
    return found


def require_signed(session: Session, trust: Repository, model: str, named: str) -> None:
    """Refuse an unsigned version once trust is set up: devices would refuse it, too, only later. `named` may be a tag.

    Raises:
        Problem: 409 naming the artifact that lacks a signature.
    """
    if not trust.active:
        return
    version = resolve(session, model, named)
    signed = trust.digests()
    for row in session.scalars(select(ModelVersion).filter_by(model=model, version=version)):
        if signed.get(target_path(model, version, row.target)) != row.digest:
            raise Problem(
                409, "Not signed", f"Sign {row.target} first: edgec fleet keys sign {model}:{version}"
            )


@cache
def _known_targets() -> dict[str, Target]:
    # By name only: a device reports its target, and must not make the server read a file of its choice.
    return {name: target for target in list_targets() for name in (target.name, *target.aliases)}


def choose(artifacts: list[ModelVersion], target: str) -> ModelVersion | None:
    """The artifact for a device of `target`: that of the target itself, else the fitting one that requires most
    features."""
    for artifact in artifacts:
        if artifact.target == target:
            return artifact
    device = _known_targets().get(target)
    if device is None:
        return None
    fitting = [
        artifact
        for artifact in artifacts
        if artifact.config.get("arch") == device.arch
        and artifact.config.get("device_kind", "cpu") == device.device_kind
        and set(artifact.config.get("required_features", [])) <= device.features
    ]
    return max(fitting, key=lambda item: len(item.config.get("required_features", [])), default=None)


def artifact_view(row: ModelVersion) -> dict[str, Any]:
    """An artifact as the API represents it."""
    fields = ("model", "version", "target", "repository", "digest", "size", "pushed_at", "evidence")
    return {field: getattr(row, field) for field in fields} | {"report": bool(row.report_digest)}
