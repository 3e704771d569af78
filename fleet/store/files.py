"""Files that are replaced as a whole."""

from __future__ import annotations

import os
import stat
import threading
from pathlib import Path

from edgec.fleet.errors import FleetError

OTHERS = stat.S_IRWXG | stat.S_IRWXO
DATABASE = ("fleet.db", "fleet.db-wal", "fleet.db-shm")


def own_folder(path: Path) -> None:
    """Make a folder of which only its owner sees the content, or make an existing one so, with the database in it.

    Raises:
        FleetError: it cannot be made, or belongs to another user.
    """
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        for one in (path, *(path / name for name in DATABASE)):
            if one.exists() and one.stat().st_mode & OTHERS:
                one.chmod(stat.S_IMODE(one.stat().st_mode) & ~OTHERS)
    except OSError as error:
        owner = f", which belongs to user {path.stat().st_uid}" if path.exists() else ""
        raise FleetError(f"cannot use the data folder {path}{owner}: {error.strerror}") from error


def replace_file(path: Path, data: bytes, *, mode: int = 0o600, keep_owner: bool = False) -> None:
    """Write a file so that readers, and a crash at any moment, find the old content or the new, never a part.

    Args:
        path: the file; its folder exists.
        data: the new content.
        mode: permissions; by default only the owner reads.
        keep_owner: when we are root, a file that is there keeps its owner.
    """
    # Several processes may write the same file: each has a partial one of its own.
    partial = path.with_name(f"{path.name}.{os.getpid()}.{threading.get_ident()}.partial")
    partial.unlink(missing_ok=True)
    with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as stream:
        stream.write(data)
        stream.flush()
        os.fchmod(stream.fileno(), mode)  # Whatever the umask is.
        os.fsync(stream.fileno())
    if keep_owner and os.getuid() == 0 and path.exists():
        old = path.stat()
        os.chown(partial, old.st_uid, old.st_gid)
    partial.replace(path)
