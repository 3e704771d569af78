"""Versions of models, which never change, and the tags that move between them."""

from __future__ import annotations

import re
import time
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from edgec.fleet.audit.log import audit
from edgec.fleet.problems import Problem
from edgec.fleet.registry.errors import RegistryError
from edgec.fleet.store.tables import ModelTag, ModelVersion, RetiredVersion, TagMove
from edgec.protocol.names import NAME_PATTERN

_LEADING = re.compile(r"\d{1,18}")
_TAG = re.compile(NAME_PATTERN)
USUAL = ("stable", "canary")


def check_new(session: Session, model: str, version: str, target: str, digest: str) -> ModelVersion | None:
    """The row of an artifact that is pushed again; None for a new one.

    Raises:
        RegistryError: 409 where the version is another artifact, was one that is deleted, or is the name of a tag.
    """
    key = {"model": model, "version": version, "target": target}
    known = session.scalar(select(ModelVersion).filter_by(**key))
    if known is not None and known.digest != digest:
        raise taken(model, version, target, known.digest)
    retired = session.scalar(select(RetiredVersion).filter_by(**key))
    if known is None and retired is not None and retired.digest != digest:
        raise taken(model, version, target, f"the deleted {retired.digest}")
    if session.get(ModelTag, (model, version)) is not None:
        raise RegistryError(409, "DENIED", f"{version} is a tag of {model}: push this under a version")
    return known


def taken(model: str, version: str, target: str, what: str) -> RegistryError:
    """The refusal of an artifact whose version is another one, `what`."""
    return RegistryError(
        409, "DENIED", f"{model}:{version} for {target} is {what} and stays that: push this as another version, "
        "such as with --next",
    )  # fmt: skip


def retire(session: Session, row: ModelVersion) -> None:
    """Remember what a version was that is being deleted."""
    key = {"model": row.model, "version": row.version, "target": row.target}
    known = session.scalar(select(RetiredVersion).filter_by(**key))
    if known is None:
        session.add(RetiredVersion(**key, digest=row.digest))


def next_version(session: Session, model: str) -> str:
    """The whole number after the largest that a version of the model begins with."""
    used: list[int] = []
    for table in (ModelVersion, RetiredVersion):
        versions = session.scalars(select(table.version).filter_by(model=model).distinct())
        used += [int(match[0]) for version in versions if (match := _LEADING.match(version))]
    return str(max(used, default=0) + 1)


def resolve(session: Session, model: str, version: str) -> str:
    """The version that a tag names; a version names itself."""
    tag = session.get(ModelTag, (model, version))
    return tag.version if tag is not None else version


def move_tag(session: Session, actor: str, model: str, name: str, version: str) -> ModelTag:
    """Let a tag of a model name `version` (or what that tag names), and record the move.

    Raises:
        Problem: 404 for an unknown version; 409 where the name is a version; 422 for an invalid name.
    """
    if not _TAG.fullmatch(name):
        raise Problem(422, "Bad tag", f"{name!r} is no tag: use up to 64 letters, digits, '.', '_' or '-'.")
    target = resolve(session, model, version)
    if session.scalar(select(ModelVersion.id).filter_by(model=model, version=target).limit(1)) is None:
        raise Problem(404, "No such version", f"Nothing was pushed as {model}:{version}.")
    versions = select(ModelVersion.id).filter_by(model=model, version=name).limit(1)
    if session.scalar(versions) is not None:
        raise Problem(409, "Is a version", f"{name} is a version of {model}: a tag needs another name.")
    tag = session.get(ModelTag, (model, name), with_for_update=True)
    previous = tag.version if tag else ""
    if tag is None:
        tag = ModelTag(model=model, name=name, version=target)
        session.add(tag)
    if previous != target:
        tag.version, tag.moved_at = target, time.time()
        _record(session, actor, model, name, target, previous)
    return tag


def remove_tag(session: Session, actor: str, model: str, name: str) -> None:
    """Remove a tag; its history stays.

    Raises:
        Problem: 404.
    """
    tag = session.get(ModelTag, (model, name))
    if tag is None:
        raise Problem(404, "No such tag", f"{model} has no tag {name!r}.")
    _record(session, actor, model, name, "", tag.version)
    session.delete(tag)


def _record(session: Session, actor: str, model: str, name: str, version: str, previous: str) -> None:
    session.add(TagMove(model=model, name=name, version=version, previous=previous, actor=actor))
    audit(session, actor, "tag.move", f"{model}:{name}", version=version, previous=previous)


def tags_of(session: Session, model: str) -> dict[str, str]:
    """The tags of a model and their versions, the usual ones first."""
    rows = session.scalars(select(ModelTag).filter_by(model=model))
    found = {row.name: row.version for row in rows}
    return {name: found[name] for name in sorted(found, key=lambda name: (name not in USUAL, name))}


def all_tags(session: Session) -> dict[str, dict[str, str]]:
    """The tags of every model."""
    found: dict[str, dict[str, str]] = {}
    for row in session.scalars(select(ModelTag).order_by(ModelTag.model, ModelTag.name)):
        found.setdefault(row.model, {})[row.name] = row.version
    return found


def tag_history(session: Session, model: str, name: str = "", limit: int = 100) -> list[dict[str, Any]]:
    """The moves of a model's tags, the newest first."""
    query = select(TagMove).where(TagMove.model == model, *[TagMove.name == name] * bool(name))
    rows = session.scalars(query.order_by(TagMove.id.desc()).limit(limit))
    return [
        {"tag": row.name, "version": row.version, "previous": row.previous, "actor": row.actor, "at": row.at}
        for row in rows
    ]
