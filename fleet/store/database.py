"""Connections and transactions: SQLite by default, PostgreSQL by URL."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.resources import files
from typing import Any

from alembic import command
from alembic.config import Config
from sqlalchemy import Connection, Engine, create_engine, event, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, OperationalError
from sqlalchemy.orm import Session

from edgec.fleet.errors import FleetError

BUSY_TIMEOUT_MS = 20_000
_WRITING = {"writing": True}


class Database:
    """One database: `reading()` and `writing()` open sessions whose transaction ends with the `with` block."""

    def __init__(self, url: str) -> None:
        """Open `url` without touching the schema.

        Raises:
            FleetError: the URL is invalid or its driver is not installed.
        """
        try:
            parsed = make_url(url)
            if parsed.drivername == "postgresql":
                parsed = parsed.set(drivername="postgresql+psycopg")
            self.engine = _create(parsed.render_as_string(hide_password=False))
        except ArgumentError as error:
            raise FleetError(
                f"--database {url!r} is not a database URL (sqlite:///file or postgresql://host/name)"
            ) from error
        except ModuleNotFoundError as error:
            raise FleetError(
                f"the database driver {error.name} is missing: pip install 'psycopg[binary]'"
            ) from error
        self._write_engine = self.engine.execution_options(**_WRITING)

    @property
    def is_sqlite(self) -> bool:
        """Whether this is SQLite (one writer at a time)."""
        return self.engine.dialect.name == "sqlite"

    @contextmanager
    def reading(self) -> Iterator[Session]:
        """A session on one consistent snapshot; nothing is committed."""
        with Session(self.engine, expire_on_commit=False) as session:
            yield session

    @contextmanager
    def writing(self) -> Iterator[Session]:
        """A session that commits when the block ends without an error, and rolls back otherwise."""
        with Session(self._write_engine, expire_on_commit=False) as session, session.begin():
            yield session

    def migrate(self, revision: str = "head") -> None:
        """Migrate the schema to `revision`; several processes may call it at once.

        Raises:
            FleetError: the database does not answer.
        """
        try:
            with self.engine.connect() as connection:
                if not self.is_sqlite:
                    connection.execute(text("SELECT pg_advisory_lock(73172001)"))
                    connection.commit()
                try:
                    self._run(connection, revision)
                finally:
                    if not self.is_sqlite:
                        connection.rollback()
                        connection.execute(text("SELECT pg_advisory_unlock(73172001)"))
                        connection.commit()
        except OperationalError as error:
            shown = self.engine.url.render_as_string(hide_password=True)
            raise FleetError(f"the database {shown} cannot be used: {error.orig}") from error

    def _run(self, connection: Connection, revision: str) -> None:
        config = alembic_config()
        config.attributes["connection"] = connection
        if revision == "base" or revision.startswith("-"):
            command.downgrade(config, revision)
        else:
            command.upgrade(config, revision)

    def close(self) -> None:
        """Close all connections."""
        self.engine.dispose()


def alembic_config() -> Config:
    """The migrations that ship with the package."""
    config = Config()
    config.set_main_option("script_location", str(files("edgec.fleet") / "migrations"))
    return config


def _create(url: str) -> Engine:
    parsed = make_url(url)
    if parsed.get_backend_name() != "sqlite":
        return create_engine(parsed, pool_size=10, max_overflow=20, pool_pre_ping=True)
    engine = create_engine(parsed, pool_size=8, max_overflow=32, connect_args={"check_same_thread": False})

    @event.listens_for(engine, "connect")
    def _prepare(connection: Any, _record: object) -> None:  # noqa: ANN401 - a DBAPI connection
        # SQLAlchemy issues BEGIN itself: the driver's implicit ones come too late to exclude other writers.
        connection.isolation_level = None
        for pragma in (
            "journal_mode=WAL",
            "synchronous=FULL",
            "foreign_keys=ON",
            f"busy_timeout={BUSY_TIMEOUT_MS}",
        ):
            connection.execute(f"PRAGMA {pragma}")

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        # A transaction that reads first and writes later cannot be upgraded while another one writes, so writers
        # declare themselves.
        mode = "IMMEDIATE" if connection.get_execution_options().get("writing") else "DEFERRED"
        connection.exec_driver_sql(f"BEGIN {mode}")

    return engine
