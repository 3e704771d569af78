"""Files that are replaced as a whole."""

from __future__ import annotations

import os
import threading
from pathlib import Path


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
        os.fsync(stream.fileno())
    if keep_owner and os.getuid() == 0 and path.exists():
        old = path.stat()
        os.chown(partial, old.st_uid, old.st_gid)
    partial.replace(path)
