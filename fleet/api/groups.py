"""Groups of devices under `/api/v1/groups`."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter
from sqlalchemy import select

from edgec.fleet.api.context import (
    Operator,
    Server,
    SureOperator,
    Viewer,
    page,
)
from edgec.fleet.groups.service import (
    GroupBody,
    group_counts,
    group_view,
    remove_group,
    save_group,
)
from edgec.fleet.store.tables import Group
from edgec.protocol.names import Name

router = APIRouter(prefix="/api/v1", tags=["groups"])


@router.get("/groups")
def list_groups(server: Server, _who: Viewer) -> dict[str, Any]:
    """List groups with the number of devices each has now."""
    with server.database.reading() as session:
        groups = session.scalars(select(Group).order_by(Group.name)).all()
        numbers = group_counts(session, groups)
        return page([group_view(group) | {"count": numbers[group.id]} for group in groups], None)


@router.put("/groups/{name}")
def put_group(server: Server, who: Operator, name: Name, body: GroupBody) -> dict[str, Any]:
    """Create or replace a group."""
    with server.database.writing() as session:
        return group_view(save_group(session, who.name, name, body))


@router.delete("/groups/{name}", status_code=204)
def delete_group(server: Server, who: SureOperator, name: str) -> None:
    """Remove a group; its devices stay."""
    with server.database.writing() as session:
        remove_group(session, who.name, name)
