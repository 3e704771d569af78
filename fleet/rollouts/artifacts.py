"""Artifacts of a model version, and which of them a device gets."""

from __future__ import annotations

import math
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

_CORE_FACTS = ("issue_width", "fma_per_cycle", "loads_per_cycle", "fma_latency")
_CACHES = ("l1d_bytes", "l2_bytes")


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
    """The artifact for a device of `target`: that of the target itself, else of the fitting ones the one that

    - requires most features,
    - was compiled for the device's microarchitecture,
    - took least time, if all that are left were measured on the same processor with as many threads,
    - was compiled for the core most like the device's,
    - was pushed last; at last by name, so that every server and every call choose the same.
    """
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
    if not fitting:
        return None
    most = max(_rank(artifact, device) for artifact in fitting)
    left = [artifact for artifact in fitting if _rank(artifact, device) == most]
    times = {artifact.target: _measured(artifact) for artifact in left}
    comparable = len({time and time[:2] for time in times.values()}) == 1 and None not in times.values()

    def order(artifact: ModelVersion) -> tuple[float, float, float, str]:
        time = times[artifact.target] if comparable else None
        likeness = _unlike(_known_targets().get(artifact.target), device)
        return (time[2] if time else 0.0, likeness, -artifact.pushed_at, artifact.target)

    return min(left, key=order)


def _rank(artifact: ModelVersion, device: Target) -> tuple[int, bool]:
    made_for = _known_targets().get(artifact.target)
    same_core = made_for is not None and made_for.core.microarchitecture == device.core.microarchitecture
    return len(artifact.config.get("required_features", [])), same_core


def _measured(artifact: ModelVersion) -> tuple[str, int, float] | None:
    """Processor, threads and median milliseconds of an artifact's run when it was compiled, if it was measured."""
    evidence = artifact.evidence
    try:
        median_ms = float(evidence["latency"]["edgec"]["median_ms"])
        return str(evidence["machine"]["cpu"]), int(evidence["threads"]), median_ms
    except (KeyError, TypeError, ValueError):  # not measured, or an artifact that somebody else wrote
        return None


def _unlike(one: Target | None, other: Target) -> float:
    """How far two targets are apart in what schedules are chosen by: factors between the facts of their cores, added
    up as logarithms; infinite for a target that is not known here."""
    if one is None:
        return math.inf
    pairs = [(getattr(one.core, fact), getattr(other.core, fact)) for fact in _CORE_FACTS]
    pairs += [(getattr(one, cache), getattr(other, cache)) for cache in _CACHES]
    return sum(abs(math.log(max(a, 1e-3) / max(b, 1e-3))) for a, b in pairs)


def artifact_view(row: ModelVersion) -> dict[str, Any]:
    """An artifact as the API represents it."""
    fields = ("model", "version", "target", "repository", "digest", "size", "pushed_at", "evidence")
    return {field: getattr(row, field) for field in fields} | {"report": bool(row.report_digest)}
