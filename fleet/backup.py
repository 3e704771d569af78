"""Backup and restore of a fleet: database, keys, certificates, signatures and, unless they are in a bucket, blobs."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import subprocess
import tarfile
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import inspect
from sqlalchemy.engine import URL, make_url

from edgec.fleet.errors import FleetError
from edgec.fleet.settings import Settings
from edgec.fleet.store.database import Database
from edgec.fleet.store.files import DATABASE, own_folder

ABOUT, DUMP, DATA = "backup.json", "database", "data"
FORMAT = 1
_LEFT_OUT = frozenset({"lock", "uploads", *DATABASE})
_PROGRAMS = "apt-get install postgresql-client"


@dataclass(frozen=True, slots=True)
class Contents:
    """What is in a backup: how many files of the data folder, and bytes in all."""

    files: int
    size: int


def back_up(settings: Settings, output: Path) -> Contents:
    """Write a backup of a fleet whose servers may be running; `output` appears only once it is complete.

    The database comes first: blobs that it names are there before, and are not collected within a day.

    Raises:
        FleetError: something cannot be read or written, or pg_dump is missing.
    """
    partial = output.with_name(output.name + ".partial")
    files = 0
    try:
        with (
            tempfile.TemporaryDirectory(dir=output.absolute().parent, prefix=".backup-") as scratch,
            os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as stream,
            tarfile.open(fileobj=stream, mode="w") as tar,
        ):
            dump = Path(scratch) / DUMP
            kind = _dump(settings, dump)
            about = {"format": FORMAT, "database": kind, "fleet": settings.fleet, "at": time.time()}
            (Path(scratch) / ABOUT).write_text(json.dumps(about))
            tar.add(Path(scratch) / ABOUT, ABOUT)
            tar.add(dump, DUMP)
            for path in _data_files(settings.data):
                try:
                    tar.add(path, f"{DATA}/{path.relative_to(settings.data)}", recursive=False)
                    files += 1
                except FileNotFoundError:
                    continue  # Something that the running server has deleted or renamed meanwhile.
        partial.replace(output)
    except OSError as error:
        raise FleetError(f"the backup {output} cannot be written: {error.strerror or error}") from error
    finally:
        partial.unlink(missing_ok=True)
    return Contents(files, output.stat().st_size)


def restore(settings: Settings, backup: Path) -> Contents:
    """Restore a backup into an empty data folder and an empty database, while no server runs.

    Raises:
        FleetError: it is no backup, or is for the other kind of database; something is there already.
    """
    if settings.data.exists() and any(settings.data.iterdir()):
        raise FleetError(f"{settings.data} is not empty: stop the servers and move it away first")
    own_folder(settings.data)
    files = 0
    try:
        with tarfile.open(backup) as tar, tempfile.TemporaryDirectory(dir=settings.data) as scratch:
            about = _about(tar, backup)
            kind = (
                "postgresql"
                if make_url(settings.database_url).get_backend_name() == "postgresql"
                else "sqlite"
            )
            if about["database"] != kind:
                raise FleetError(
                    f"{backup} is of a fleet on {about['database']}, and the settings name {kind}"
                )
            for member in tar:
                place = Path(scratch) if member.name == DUMP else settings.data
                if member.name.startswith(f"{DATA}/"):
                    member.name = member.name.removeprefix(f"{DATA}/")
                    files += 1
                elif member.name != DUMP:
                    continue
                tar.extract(member, place, filter="data")
            _load(settings, Path(scratch) / DUMP)
    except (tarfile.TarError, EOFError) as error:
        raise FleetError(f"{backup} is not a whole backup: {error}") from error
    return Contents(files, backup.stat().st_size)


def _about(tar: tarfile.TarFile, backup: Path) -> dict[str, str]:
    first = tar.next()
    content = tar.extractfile(first) if first is not None and first.name == ABOUT else None
    about = json.load(content) if content is not None else {}
    if about.get("format") != FORMAT:
        raise FleetError(f"{backup} is not a backup of 'edgec fleet backup', or of a later version")
    return dict(about)


def _data_files(data: Path) -> Iterator[Path]:
    for path in sorted(data.iterdir()):
        if path.name in _LEFT_OUT or path.name.endswith(".partial"):
            continue
        if path.is_dir():
            yield from (
                one for one in sorted(path.rglob("*")) if not one.name.endswith(".partial") and one.is_file()
            )
        else:
            yield path


def _dump(settings: Settings, dump: Path) -> str:
    url = make_url(settings.database_url)
    if url.get_backend_name() == "sqlite":
        if not Path(url.database or "").exists():
            raise FleetError(f"there is no database {url.database}: is this the fleet's data folder?")
        with closing(sqlite3.connect(str(url.database))) as source, closing(sqlite3.connect(dump)) as copy:
            source.backup(copy)
        return "sqlite"
    _run(["pg_dump", "--format=custom", f"--file={dump}"], url)
    return "postgresql"


def _load(settings: Settings, dump: Path) -> None:
    url = make_url(settings.database_url)
    if url.get_backend_name() == "sqlite":
        shutil.copyfile(dump, settings.data / DATABASE[0])
        (settings.data / DATABASE[0]).chmod(0o600)
        return
    database = Database(settings.database_url)
    try:
        if inspect(database.engine).get_table_names():
            raise FleetError(f"the database {url.render_as_string()} is not empty: create a new one")
    finally:
        database.close()
    _run(["pg_restore", "--no-owner", "--exit-on-error", "--single-transaction"], url, [str(dump)])


def _run(command: list[str], url: URL, more: list[str] | None = None) -> None:
    """Run a program of PostgreSQL; the password is passed in the environment, where other users cannot see it."""
    program = shutil.which(command[0])
    if program is None:
        raise FleetError(f"{command[0]} is not installed: {_PROGRAMS}")
    shown = URL.create(
        "postgresql", url.username, host=url.host, port=url.port, database=url.database, query=url.query
    ).render_as_string()
    environment = os.environ | ({"PGPASSWORD": str(url.password)} if url.password else {})
    ran = subprocess.run(
        [program, *command[1:], f"--dbname={shown}", *(more or [])],
        env=environment,
        capture_output=True,
        text=True,
    )
    if ran.returncode != 0:
        raise FleetError(f"{command[0]} failed: {ran.stderr.strip()[-400:]}")
