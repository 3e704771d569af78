"""Which artifact of a model version a device gets."""

from __future__ import annotations

from functools import cache

from sqlalchemy import select
from sqlalchemy.orm import Session

from edgec.fleet.errors import Problem
from edgec.fleet.store.tables import ModelVersion
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


@cache
def _known_targets() -> dict[str, Target]:
    # By name only: a device says what it is, and must not make the server read a file of its choice.
    return {name: target for target in list_targets() for name in (target.name, *target.aliases)}


def choose(artifacts: list[ModelVersion], target: str) -> ModelVersion | None:
    """The artifact for a device of ``target``: its own, else the one that asks for most of what the device
    has."""
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
