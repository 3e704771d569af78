"""Machine code of kernels on disk (object files, and binaries for GPUs), addressed by what they were compiled from.

Cached files become part of artifacts, so a folder that another user owns or may write to is not used. Files are written
under a temporary name and renamed, so processes can share the folder. Each begins with a digest of its content; a
damaged file counts as absent and is rewritten. Beyond a size limit the least recently used files are evicted. On a
read-only mount, the folder is only read.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
import time
from contextlib import suppress
from pathlib import Path

from edgec.compiler.cache_folder import default_folder

LIMIT = 512 << 20  # bytes; the kernels of a network take about one megabyte
KEPT = 0.75  # of the limit, when it was reached
LEFT_S = 3600  # a file under its first name that is as old as this: its process was killed
_NEW = ".new-"
_DIGEST = 32  # bytes


def key_of(*parts: str) -> str:
    """A cache key from these texts: equal for equal texts only."""
    digest = hashlib.sha256()
    for part in parts:
        content = part.encode()
        digest.update(len(content).to_bytes(8, "little"))
        digest.update(content)
    return digest.hexdigest()


class ObjectCache:
    """The object files in one folder: `objects` in the given one, else beside the tuning cache of the user."""

    def __init__(self, folder: Path | None, limit: int = LIMIT) -> None:
        self.folder = folder / "objects" if folder else default_folder() / "objects"
        self.limit = limit
        self._usable = _is_ours(self.folder)

    @property
    def refused(self) -> bool:
        """Whether the folder exists but is not safe to use."""
        return not self._usable and self.folder.is_dir()

    def get(self, key: str) -> bytes | None:
        """The content stored under this key; None if it is absent or damaged."""
        path = self.folder / f"{key}.o"
        try:
            content = path.read_bytes() if self._usable else b""
            digest, made = content[:_DIGEST], content[_DIGEST:]
            if not made or hashlib.sha256(made).digest() != digest:
                return None
        except OSError:
            return None
        with suppress(OSError):
            os.utime(path)  # in use: the others go first
        return made

    def put(self, key: str, content: bytes) -> None:
        """Store an object file. A folder that cannot be written is left alone: the cache only saves time."""
        with suppress(OSError):
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._usable = _is_ours(self.folder)
            if not self._usable:
                return
            handle, name = tempfile.mkstemp(dir=self.folder, prefix=_NEW)
            with os.fdopen(handle, "wb") as file:
                file.write(hashlib.sha256(content).digest() + content)
            Path(name).replace(self.folder / f"{key}.o")

    def prune(self) -> None:
        """Remove half-written files of processes that were killed, and, when there is more than the limit, what was
        unused for longest.
        """
        if not self._usable:
            return
        files = []
        oldest = time.time() - LEFT_S
        with suppress(OSError):
            for entry in os.scandir(self.folder):
                with suppress(FileNotFoundError):  # another process removed it
                    status = entry.stat()
                    if entry.name.startswith(_NEW) and status.st_mtime < oldest:
                        Path(entry.path).unlink()
                    else:
                        files.append((status.st_mtime_ns, status.st_size, entry.path))
        held = sum(size for _, size, _ in files)
        if held <= self.limit:
            return
        for _, size, path in sorted(files):
            with suppress(OSError):
                Path(path).unlink()
            held -= size
            if held <= self.limit * KEPT:
                return


def _is_ours(folder: Path) -> bool:
    """Whether only this user can create files there."""
    try:
        status = folder.stat()
    except OSError:
        return False
    return status.st_uid == os.geteuid() and not status.st_mode & 0o022
