"""The audit log under `/api/v1/audit`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Annotated, Any

from fastapi import APIRouter, Query
from fastapi.responses import StreamingResponse

from edgec.fleet.api.context import (
    Admin,
    Cursor,
    Limit,
    Server,
    next_cursor,
    number_cursor,
    page,
)
from edgec.fleet.audit.chain import ChainBroken, parse_head, verify
from edgec.fleet.audit.log import audit_entries, audit_query
from edgec.fleet.errors import FleetError
from edgec.fleet.problems import Problem
from edgec.fleet.store.tables import Audit

router = APIRouter(prefix="/api/v1", tags=["audit"])


@router.get("/audit/export", response_class=StreamingResponse)
def export_audit(server: Server, _who: Admin) -> StreamingResponse:
    """Download the whole audit log, oldest first, as JSON lines. Each entry has the hash that covers it and all before,
    so that `edgec fleet audit verify FILE` can check it without the server."""

    def lines() -> Iterator[bytes]:
        with server.database.reading() as session:
            for entry in audit_entries(session):
                yield json.dumps(entry, separators=(",", ":")).encode() + b"\n"

    headers = {"Content-Disposition": 'attachment; filename="audit.jsonl"', "Cache-Control": "no-store"}
    return StreamingResponse(lines(), media_type="application/jsonl", headers=headers)


@router.get("/audit/verify")
def verify_audit(
    server: Server, _who: Admin, since: Annotated[str, Query(max_length=128)] = ""
) -> dict[str, Any]:
    """Check the chain of the whole audit log. `since` is a `head` of earlier, which must still be part of it."""
    try:
        expected = parse_head(since) if since else None
    except FleetError as error:
        raise Problem(422, "Bad head", str(error)) from error
    with server.database.reading() as session:
        try:
            head = verify(audit_entries(session), expected)
        except ChainBroken as error:
            return {"intact": False, "reason": str(error)}
    return {"intact": True, "entries": head.count, "head": str(head)}


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
    fields = ("at", "actor", "action", "subject", "detail", "hash")
    items = [{field: getattr(row, field) for field in fields} for row in rows[:limit]]
    return page(items, next_cursor(rows, limit, lambda row: row.id))
