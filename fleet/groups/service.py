"""Groups of devices, listed by name or selected by properties."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue
from sqlalchemy import (
    Boolean,
    ColumnElement,
    Select,
    Text,
    and_,
    bindparam,
    case,
    false,
    func,
    or_,
    select,
)
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.orm import Session
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement

from edgec.fleet.audit.log import audit
from edgec.fleet.devices.service import get_device
from edgec.fleet.devices.slots import has_slot
from edgec.fleet.problems import Problem, not_found
from edgec.fleet.store.tables import Device, DeviceSlot, Group
from edgec.protocol.names import Name

SELECTOR_KEYS = frozenset({"labels", "target", "version", "model", "state"})


def get_group(session: Session, name: str) -> Group:
    """The group.

    Raises:
        Problem: 404.
    """
    group = session.scalar(select(Group).filter_by(name=name))
    if group is None:
        raise not_found("group", name)
    return group


def check_selector(selector: Mapping[str, Any]) -> None:
    """Refuse a selector with unknown keys.

    Raises:
        Problem: 422 naming the key.
    """
    for key, value in selector.items():
        if key not in SELECTOR_KEYS:
            raise Problem(
                422, "Unknown selector", f"{key!r} is not one of {', '.join(sorted(SELECTOR_KEYS))}."
            )
        if key == "labels":
            if not isinstance(value, dict) or not all(isinstance(v, str) for v in value.values()):
                raise Problem(422, "Bad selector", "labels must be an object of names and values.")
        elif not isinstance(value, str):
            raise Problem(422, "Bad selector", f"{key} must be a text.")


class _Texts(FunctionElement[str]):
    """The strings of a JSON array as rows: one bound parameter, however many there are."""

    inherit_cache = True


@compiles(_Texts, "sqlite")
def _texts_sqlite(element: _Texts, compiler: SQLCompiler, **options: Any) -> str:  # noqa: ANN401 - SQLAlchemy's hook
    return f"(SELECT value FROM json_each({compiler.process(element.clauses, **options)}))"


@compiles(_Texts, "postgresql")
def _texts_postgresql(element: _Texts, compiler: SQLCompiler, **options: Any) -> str:  # noqa: ANN401 - the same
    return f"(SELECT json_array_elements_text(CAST({compiler.process(element.clauses, **options)} AS json)))"


def _selects(group: Group) -> ColumnElement[bool]:
    """Whether a device is listed in a group, or currently matches all keys of its selector."""
    selected: ColumnElement[bool] = false()
    if group.devices:
        selected = Device.name.op("IN", is_comparison=True, return_type=Boolean())(
            _Texts(bindparam(None, json.dumps(group.devices), Text()))
        )
    if group.selector:
        parts, runs = [], []
        for key, value in group.selector.items():
            if key == "labels":
                parts += [Device.labels[name].as_string() == text for name, text in value.items()]
            elif key in ("model", "version"):
                runs.append(getattr(DeviceSlot, key) == value)
            else:
                parts.append(getattr(Device, key) == value)
        parts += [has_slot(*runs)] if runs else []
        selected = or_(selected, and_(*parts)) if parts else selected
    return selected


def group_query(group: Group) -> Select[Any]:
    """Accepted devices of a group."""
    return select(Device).where(Device.admission == "accepted", _selects(group))


def group_counts(session: Session, groups: Sequence[Group]) -> dict[int, int]:
    """How many accepted devices each group has now, by the group's id; the table of devices is scanned once."""
    if not groups:
        return {}
    sums = [func.coalesce(func.sum(case((_selects(group), 1), else_=0)), 0) for group in groups]
    found = session.execute(select(*sums).select_from(Device).where(Device.admission == "accepted")).one()
    return {group.id: int(number) for group, number in zip(groups, found, strict=True)}


def scope_query(session: Session, kind: str, name: str) -> Select[Any]:
    """The accepted devices that a scope covers at this moment.

    Raises:
        Problem: 404 for an unknown device or group.
    """
    if kind == "all":
        return select(Device).where(Device.admission == "accepted")
    if kind == "group":
        return group_query(get_group(session, name))
    get_device(session, name)
    return select(Device).where(Device.admission == "accepted", Device.name == name)


class Scope(BaseModel):
    """The devices that a rollout or an experiment is for."""

    model_config = ConfigDict(extra="forbid")
    kind: Literal["device", "group", "all"]
    name: str = Field("", max_length=128)


class GroupBody(BaseModel):
    """A group: named devices, and a selector (labels, target, version, model, state; all keys must match)."""

    model_config = ConfigDict(extra="forbid")
    description: str = Field("", max_length=255)
    devices: list[Name] = Field(default_factory=list, max_length=100_000)
    selector: dict[str, JsonValue] = Field(default_factory=dict)


def group_view(group: Group) -> dict[str, Any]:
    """A group as the API represents it."""
    fields = ("name", "description", "devices", "selector", "created_at")
    return {field: getattr(group, field) for field in fields}


def save_group(session: Session, actor: str, name: str, body: GroupBody) -> Group:
    """Create or replace a group.

    Raises:
        Problem: 422 for an invalid selector.
    """
    check_selector(body.selector)
    group = session.scalar(select(Group).filter_by(name=name)) or Group(name=name)
    group.description, group.devices = body.description, list(body.devices)
    group.selector = dict(body.selector)
    session.add(group)
    session.flush()
    audit(session, actor, "group.put", name)
    return group


def remove_group(session: Session, actor: str, name: str) -> None:
    """Remove a group; its devices stay.

    Raises:
        Problem: 404.
    """
    session.delete(get_group(session, name))
    audit(session, actor, "group.delete", name)
