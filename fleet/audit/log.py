"""The audit log: who did what, when."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

from sqlalchemy import Select, event, select, text
from sqlalchemy.orm import Session

from edgec.fleet.audit.chain import FIELDS, START, entry_hash
from edgec.fleet.store.search import contains
from edgec.fleet.store.tables import Audit

_WAITING = "audit entries"
_LOCK = "SELECT pg_advisory_xact_lock(73172002)"


def audit(session: Session, actor: str, action: str, subject: str = "", **detail: Any) -> None:  # noqa: ANN401 - JSON
    """Add an entry to the audit log, in the same transaction as the change it records.

    It is written when the transaction commits: entries are chained one after the other, and a lock that was taken
    earlier could wait for a row that another transaction, which waits for the lock, has changed.
    """
    entry = {
        "at": time.time(),
        "actor": actor[:128],
        "action": action,
        "subject": subject[:255],
        "detail": json.loads(json.dumps(detail)),
    }
    session.info.setdefault(_WAITING, []).append(entry)


@event.listens_for(Session, "before_commit")
def _chain(session: Session) -> None:
    entries = session.info.pop(_WAITING, None)
    if not entries:
        return
    if session.get_bind().dialect.name == "postgresql":
        session.execute(text(_LOCK))  # SQLite admits one writer at a time anyway.
    previous = session.scalar(select(Audit.hash).order_by(Audit.id.desc()).limit(1)) or START
    for entry in entries:
        previous = entry_hash(previous, entry)
        session.add(Audit(**entry, hash=previous))
        session.flush()  # One by one: the order of the keys is the order of the chain.


@event.listens_for(Session, "after_rollback")
def _forget(session: Session) -> None:
    session.info.pop(_WAITING, None)


def audit_query(search: str) -> Select[Audit]:
    """Entries of the audit log whose actor, action or subject contains `search`."""
    query = select(Audit)
    if search:
        query = query.where(contains(search, Audit.actor, Audit.action, Audit.subject))
    return query


def audit_entries(session: Session, after: int = 0) -> Iterator[dict[str, Any]]:
    """All entries whose number is above `after`, oldest first, with `FIELDS` and `hash`."""
    rows = session.scalars(
        select(Audit).where(Audit.id > after).order_by(Audit.id).execution_options(yield_per=500)
    )
    for row in rows:
        yield {field: getattr(row, field) for field in (*FIELDS, "hash")}
