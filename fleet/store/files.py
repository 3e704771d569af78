"""Files that are replaced as a whole, and the copies of those that nothing else could restore."""

from __future__ import annotations

import hashlib
import logging
import os
import stat
import threading
from pathlib import Path

from edgec.fleet.errors import FleetError

COPY = ".copy"
"""A copy begins with the checksum of what follows, so that of a file and its copy the damaged one is known."""
OTHERS = stat.S_IRWXG | stat.S_IRWXO
DATABASE = ("fleet.db", "fleet.db-wal", "fleet.db-shm")
log = logging.getLogger(__name__)


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


def replace_file(
    path: Path, data: bytes, *, mode: int = 0o600, keep_owner: bool = False, copied: bool = False
) -> None:
    """Write a file so that readers, and a crash at any moment, find the old content or the new, never a part.

    Args:
        path: the file; its folder exists.
        data: the new content.
        mode: permissions; by default only the owner reads.
        keep_owner: when we are root, a file that is there keeps its owner.
        copied: write the file's copy first; `mend` restores the file from it.
    """
    if copied:
        replace_file(_copy_of(path), hashlib.sha256(data).hexdigest().encode() + b"\n" + data, mode=mode)
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


def mend(path: Path) -> bool:
    """Write a file that is damaged or gone from its copy, or a copy that is damaged or missing from its file.

    Either way only the owner may read what is written, whatever the other allows.

    Returns:
        Whether the file itself was written.

    Raises:
        OSError: one of them cannot be read or written.
    """
    copy = _copy_of(path)
    kept = copy.read_bytes() if copy.exists() else b""
    checksum, _, wanted = kept.partition(b"\n")
    intact = hashlib.sha256(wanted).hexdigest().encode() == checksum
    present = path.read_bytes() if path.exists() else None
    if intact and present != wanted:
        log.error(
            "%s was %s: it is written again from %s",
            path,
            "gone" if present is None else "altered",
            copy.name,
        )
        replace_file(path, wanted)
        return True
    if not intact and present is not None:
        if kept:
            log.error("%s was damaged: it is written again from %s", copy, path.name)
        replace_file(copy, hashlib.sha256(present).hexdigest().encode() + b"\n" + present)
    return False


def mend_folder(folder: Path, names: tuple[str, ...]) -> list[Path]:
    """`mend` the files of these patterns, and all that have a copy; returns those that were written.

    Raises:
        OSError: one of them cannot be read or written.
    """
    paths = {path for name in names for path in folder.glob(name)}
    paths |= {
        path.with_name(path.name.removesuffix(COPY)) for name in names for path in folder.glob(name + COPY)
    }
    return [path for path in sorted(paths) if not path.name.endswith(COPY) and mend(path)]


def _copy_of(path: Path) -> Path:
    return path.with_name(path.name + COPY)
