"""The audit log: who did what, when."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy import Select, select
from sqlalchemy.orm import Session

from edgec.fleet.store.search import contains
from edgec.fleet.store.tables import Audit

if TYPE_CHECKING:
    pass


def audit(session: Session, actor: str, action: str, subject: str = "", **detail: Any) -> None:  # noqa: ANN401 - JSON
    """Add an entry to the audit log, in the same transaction as the change it records."""
    session.add(Audit(actor=actor, action=action, subject=subject[:255], detail=detail))


def audit_query(search: str) -> Select[Audit]:
    """Entries of the audit log whose actor, action or subject contains `search`."""
    query = select(Audit)
    if search:
        query = query.where(contains(search, Audit.actor, Audit.action, Audit.subject))
    return query
