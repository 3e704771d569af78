"""Devices and groups: enrolment, admission, selection."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Boolean, ColumnElement, Select, Text, and_, bindparam, case, false, func, or_, select
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.orm import Session
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement

from edgec.fleet.access.auth import audit, new_secret, secret_hash
from edgec.fleet.broker.passwords import hash_password
from edgec.fleet.certificates.service import revoke_device
from edgec.fleet.errors import Problem, not_found
from edgec.fleet.store.tables import Device, EnrollToken, Group
from edgec.protocol.enrol import EnrollRequest

SELECTOR_KEYS = frozenset({"labels", "target", "version", "model", "state"})


def create_enroll_token(
    session: Session,
    actor: str,
    *,
    uses: int = 1,
    valid_s: float = 86400.0,
    labels: Mapping[str, str] | None = None,
    auto_accept: bool = True,
    note: str = "",
) -> tuple[EnrollToken, str]:
    """Add a token that lets ``uses`` devices in; the second value is the secret, shown once."""
    secret = new_secret("enroll")
    row = EnrollToken(
        hash=secret_hash(secret),
        note=note,
        labels=dict(labels or {}),
        auto_accept=auto_accept,
        uses_left=uses,
        expires_at=time.time() + valid_s,
        created_by=actor,
    )
    session.add(row)
    session.flush()
    audit(session, actor, "enroll-token.create", str(row.id), uses=uses)
    return row, secret


def enroll(session: Session, request: EnrollRequest) -> tuple[Device, str, str]:
    """Admit a device: its row, MQTT password and HTTP token (both shown once, to the device).

    Raises:
        Problem: 403 for a token that is unknown, spent or expired; 409 when the name belongs to another
        device.
    """
    token = session.scalar(select(EnrollToken).filter_by(hash=secret_hash(request.token)).with_for_update())
    if token is None or token.uses_left < 1 or token.expires_at < time.time():
        raise Problem(
            403, "Token refused", "The enrolment token is unknown, used up or expired. Ask for a new one."
        )
    token.uses_left -= 1
    return admit(session, request, by=f"token {token.id}", accept=token.auto_accept, labels=token.labels)


def admit(
    session: Session, request: EnrollRequest, *, by: str, accept: bool, labels: Mapping[str, str]
) -> tuple[Device, str, str]:
    """Make the row of a device whose right to enrol was checked; see :func:`enroll`.

    Raises:
        Problem: 409 when the name belongs to another device.
    """
    name = request.device or f"device-{secrets.token_hex(4)}"
    if session.scalar(select(Device.id).filter_by(name=name)):
        raise Problem(
            409,
            "Name taken",
            f"A device called {name!r} is enrolled. Delete it first, or choose another name.",
        )
    password, http_token = new_secret("mqtt"), new_secret("device")
    device = Device(
        name=name,
        admission="accepted" if accept else "pending",
        target=request.target[:64],
        agent_version=request.agent_version[:64],
        labels={**request.labels, **labels},
        password_hash=hash_password(password),
        token_hash=secret_hash(http_token),
    )
    session.add(device)
    session.flush()
    audit(session, f"device {name}", "device.enroll", name, by=by, admission=device.admission)
    return device, password, http_token


def get_device(session: Session, name: str) -> Device:
    """The device.

    Raises:
        Problem: 404.
    """
    device = session.scalar(select(Device).filter_by(name=name))
    if device is None:
        raise not_found("device", name)
    return device


def set_admission(session: Session, actor: str, name: str, admission: str) -> Device:
    """Accept or revoke a device.

    Raises:
        Problem: 404.
    """
    device = get_device(session, name)
    device.admission = admission
    if admission == "revoked":
        revoke_device(session, device.id)
    audit(session, actor, f"device.{admission}", name)
    return device


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
            raise Problem(422, "Unknown selector", f"{key!r} is none of {', '.join(sorted(SELECTOR_KEYS))}.")
        if key == "labels":
            if not isinstance(value, dict) or not all(isinstance(v, str) for v in value.values()):
                raise Problem(422, "Bad selector", "labels is an object of names and values.")
        elif not isinstance(value, str):
            raise Problem(422, "Bad selector", f"{key} is a text.")


class _Texts(FunctionElement[str]):
    """The texts of a JSON array, as rows: one parameter, however many there are."""

    inherit_cache = True


@compiles(_Texts, "sqlite")
def _texts_sqlite(element: _Texts, compiler: SQLCompiler, **options: Any) -> str:  # noqa: ANN401 - SQLAlchemy's hook
    return f"(SELECT value FROM json_each({compiler.process(element.clauses, **options)}))"


@compiles(_Texts, "postgresql")
def _texts_postgresql(element: _Texts, compiler: SQLCompiler, **options: Any) -> str:  # noqa: ANN401 - the same
    return f"(SELECT json_array_elements_text(CAST({compiler.process(element.clauses, **options)} AS json)))"


def _selects(group: Group) -> ColumnElement[bool]:
    """Whether a device is listed in a group, or matches its selector now (all keys of it)."""
    selected: ColumnElement[bool] = false()
    if group.devices:
        selected = Device.name.op("IN", is_comparison=True, return_type=Boolean())(
            _Texts(bindparam(None, json.dumps(group.devices), Text()))
        )
    if group.selector:
        parts = []
        for key, value in group.selector.items():
            if key == "labels":
                parts += [Device.labels[name].as_string() == text for name, text in value.items()]
            else:
                parts.append(getattr(Device, key) == value)
        selected = or_(selected, and_(*parts)) if parts else selected
    return selected


def group_query(group: Group) -> Select[Any]:
    """Accepted devices of a group."""
    return select(Device).where(Device.admission == "accepted", _selects(group))


def group_counts(session: Session, groups: Sequence[Group]) -> dict[int, int]:
    """How many accepted devices each group has now, by the group's id: the table of devices is read once."""
    if not groups:
        return {}
    sums = [func.coalesce(func.sum(case((_selects(group), 1), else_=0)), 0) for group in groups]
    found = session.execute(select(*sums).select_from(Device).where(Device.admission == "accepted")).one()
    return {group.id: int(number) for group, number in zip(groups, found, strict=True)}


def scope_query(session: Session, kind: str, name: str) -> Select[Any]:
    """Devices that a rollout's scope means at this moment.

    Raises:
        Problem: 404 for an unknown device or group.
    """
    if kind == "all":
        return select(Device).where(Device.admission == "accepted")
    if kind == "group":
        return group_query(get_group(session, name))
    get_device(session, name)
    return select(Device).where(Device.admission == "accepted", Device.name == name)


def device_filter(
    search: str = "", state: str = "", target: str = "", version: str = "", group: Group | None = None
) -> Select[Any]:
    """Devices by what a person types and picks; ``search`` looks in names and targets."""
    query = group_query(group) if group else select(Device)
    if search:
        pattern = "%" + search.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_") + "%"
        query = query.where(
            or_(Device.name.ilike(pattern, escape="\\"), Device.target.ilike(pattern, escape="\\"))
        )
    if state in ("pending", "revoked"):
        query = query.where(Device.admission == state)
    elif state == "drift":
        query = query.where(Device.desired_version != "", Device.version != Device.desired_version)
    elif state:
        query = query.where(Device.state == state)
    if target:
        query = query.where(Device.target == target)
    if version:
        query = query.where(Device.version == version)
    return query


def counts(session: Session) -> dict[str, int]:
    """How many devices are in each state, plus ``total``, ``pending`` and ``drift``."""
    by_state = dict(session.execute(select(Device.state, func.count()).group_by(Device.state)).all())
    pending = session.scalar(select(func.count()).where(Device.admission == "pending")) or 0
    drift = session.scalar(
        select(func.count()).where(Device.desired_version != "", Device.version != Device.desired_version)
    )
    known = {name: by_state.get(name, 0) for name in ("online", "stopped", "offline", "never")}
    return {**known, "total": sum(by_state.values()), "pending": pending, "drift": drift or 0}
