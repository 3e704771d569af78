"""The audit log under `/api/v1/audit`."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query

from edgec.fleet.api.context import (
    Admin,
    Cursor,
    Limit,
    Server,
    next_cursor,
    number_cursor,
    page,
)
from edgec.fleet.audit.log import audit_query
from edgec.fleet.store.tables import Audit

router = APIRouter(prefix="/api/v1", tags=["audit"])


@router.get("/audit")
def list_audit(
    server: Server, _who: Admin, limit: Limit = 100, cursor: Cursor = "",
    search: Annotated[str, Query(max_length=128)] = "",
) -> dict[str, Any]:  # fmt: skip
    """List the audit log, newest first."""
    query = audit_query(search).order_by(Audit.id.desc()).limit(limit + 1)
    if (before := number_cursor(cursor)) is not None:
        query = query.where(Audit.id < before)
    with server.database.reading() as session:
        rows = list(session.scalars(query))
    fields = ("at", "actor", "action", "subject", "detail")
    items = [{field: getattr(row, field) for field in fields} for row in rows[:limit]]
    return page(items, next_cursor(rows, limit, lambda row: row.id))
