"""Inserts of many rows in one statement: the ingest spends its time on them."""

from __future__ import annotations

import json
from functools import cache
from typing import Any

from sqlalchemy import JSON, text
from sqlalchemy.dialects import postgresql
from sqlalchemy.orm import Session

from edgec.fleet.store.tables import Base


@cache
def _postgresql(table: type[Base], names: tuple[str, ...]) -> Any:  # noqa: ANN401 - a text clause
    """One parameter carries all rows as JSON; the database unpacks them."""
    columns = table.__table__.c
    dialect = postgresql.dialect()  # type: ignore[no-untyped-call]
    types = {
        name: "text" if isinstance(columns[name].type, JSON) else columns[name].type.compile(dialect)
        for name in names
    }
    chosen = ", ".join(
        f't."{name}"::json' if isinstance(columns[name].type, JSON) else f't."{name}"' for name in names
    )
    listed = ", ".join(f'"{name}"' for name in names)
    shape = ", ".join(f'"{name}" {kind}' for name, kind in types.items())
    return text(
        f'INSERT INTO "{table.__tablename__}" ({listed}) SELECT {chosen} '
        f"FROM json_to_recordset(CAST(:rows AS json)) AS t({shape}) ON CONFLICT DO NOTHING"
    )


@cache
def _sqlite(table: type[Base], names: tuple[str, ...]) -> str:
    listed = ", ".join(f'"{name}"' for name in names)
    marks = ", ".join("?" for _ in names)
    return f'INSERT OR IGNORE INTO "{table.__tablename__}" ({listed}) VALUES ({marks})'


def insert_new(session: Session, table: type[Base], rows: list[dict[str, Any]]) -> None:
    """Insert rows, all with the same keys. Rows that violate a unique constraint are repeats and are skipped.

    JSON columns are given as text. NULs, which PostgreSQL cannot store, are removed from texts.
    """
    if not rows:
        return
    names = tuple(rows[0])
    if session.get_bind().dialect.name == "postgresql":
        document = json.dumps(rows).replace("\\\\u0000", "").replace("\\u0000", "")
        session.execute(_postgresql(table, names), {"rows": document})
        return
    values = [tuple(row[name] for name in names) for row in rows]
    session.connection().exec_driver_sql(_sqlite(table, names), values)
