"""What a version is needed for, and the deletion of versions that nothing needs."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import or_, select
from sqlalchemy.orm import Session

from edgec.fleet.audit.log import audit
from edgec.fleet.problems import Problem
from edgec.fleet.registry.manifests import delete_manifest
from edgec.fleet.rollouts.plan import MemberState, RolloutState
from edgec.fleet.store.tables import (
    Device,
    DeviceSlot,
    Experiment,
    Member,
    ModelTag,
    ModelVersion,
    Rollout,
)

_ENDED = [state.value for state in RolloutState if state.ended]
_TOUCHED = [
    state.value
    for state in (MemberState.ACTIVE, MemberState.SUCCEEDED, MemberState.REVERTING, MemberState.WAITING)
]


def needed_for(session: Session, rows: Sequence[ModelVersion]) -> list[str]:
    """What needs these artifacts, a phrase each; empty if nothing does."""
    digests = [row.digest for row in rows]
    named = {(row.model, row.version) for row in rows}
    found: list[str] = []
    devices = session.scalars(
        select(Device.name)
        .join(DeviceSlot, DeviceSlot.device_id == Device.id)
        .where(or_(DeviceSlot.digest.in_(digests), DeviceSlot.desired_digest.in_(digests)))
        .distinct()
        .order_by(Device.name)
        .limit(4)
    ).all()
    if devices:
        more = " and others" if len(devices) > 3 else ""
        found.append(f"{', '.join(devices[:3])}{more} {'runs' if len(devices) == 1 else 'run'} it")
    for model, version in sorted(named):
        found += _open(session, model, version)
        last = session.scalar(
            select(ModelVersion.id)
            .where(
                ModelVersion.model == model,
                ModelVersion.version == version,
                ModelVersion.digest.not_in(digests),
            )
            .limit(1)
        )
        if last is None:
            tags = session.scalars(select(ModelTag.name).filter_by(model=model, version=version))
            found += [f"the tag {name} names it" for name in tags]
    return found + _ways_back(session, digests)


def _open(session: Session, model: str, version: str) -> list[str]:
    rollouts = select(Rollout.id).where(
        Rollout.model == model, Rollout.version == version, Rollout.state.not_in(_ENDED)
    )
    experiments = select(Experiment.id).where(
        Experiment.model == model, Experiment.version == version, Experiment.state != "ENDED"
    )
    return [f"rollout {number} is for it" for number in session.scalars(rollouts)] + [
        f"experiment {number} is for it" for number in session.scalars(experiments)
    ]


def _ways_back(session: Session, digests: Sequence[str]) -> list[str]:
    rollouts = session.scalars(
        select(Rollout.id)
        .join(Member, Member.rollout_id == Rollout.id)
        .where(
            Rollout.state.not_in(_ENDED),
            Member.state.in_(_TOUCHED),
            or_(Member.previous_digest.in_(digests), Member.prior_digest.in_(digests)),
        )
        .distinct()
    )
    return [f"rollout {number} takes devices back to it if it fails" for number in rollouts]


def delete_version(session: Session, actor: str, model: str, version: str) -> None:
    """Delete a version for all targets; its blobs go with the next garbage collection.

    Raises:
        Problem: 404; 409 while something needs it.
    """
    rows = list(session.scalars(select(ModelVersion).filter_by(model=model, version=version)))
    if not rows:
        raise Problem(404, "Version not found", f"Nothing was pushed as {model}:{version}.")
    if needs := needed_for(session, rows):
        raise Problem(409, "Needed", f"{model}:{version} cannot be deleted: {'; '.join(needs)}.")
    for row in rows:
        delete_manifest(session, row.repository, row.digest)
    audit(session, actor, "version.delete", f"{model}:{version}")
