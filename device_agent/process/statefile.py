"""State files that survive power cuts: written to a temporary file, fsynced, renamed; verified when read."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgec.device_agent.errors import StateError


def fsync_folder(folder: Path) -> None:
    """Fsync `folder`, so that its names are durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_durably(path: Path, data: bytes, mode: int = 0o644) -> None:
    """Replace `path` by `data` atomically and durably: until this returns, the old content is on disk.

    Raises:
        StateError: the disk is full, read-only or broken; the old content is still there.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
        try:
            view = memoryview(data)
            while view:
                view = view[os.write(descriptor, view) :]
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        temporary.replace(path)
        fsync_folder(path.parent)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise StateError(f"cannot write {path}: {explain(error)}") from error


def explain(error: OSError) -> str:
    """Return the reason in words that suggest a remedy."""
    hints = {
        errno.ENOSPC: "the disk is full; free some space",
        errno.EDQUOT: "the disk quota is used up; free some space",
        errno.EROFS: "the file system is read-only; remount it or set agent.state elsewhere",
        errno.EACCES: "no permission; run as the owner of the state folder",
        errno.EFBIG: "the file would be larger than the limit of this process",
    }
    return hints.get(error.errno or 0, error.strerror or str(error))


def claim_folder(state: Path) -> int:
    """Create the state folder and lock it for this agent.

    Raises:
        StateError: it cannot be made, or another agent has it.
    """
    try:
        state.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor = _open_lock(state / "agent.lock")
    except OSError as error:
        raise StateError(f"cannot use the state folder {state}: {explain(error)}") from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise StateError(f"another agent runs with the state folder {state}; stop it first") from None
    return descriptor


def _open_lock(path: Path) -> int:
    """Open the lock file; read-only access is enough if the file system became read-only."""
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        if error.errno != errno.EROFS:
            raise
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)


@dataclass(frozen=True)
class Loaded:
    """Content of a state file, and what was wrong with it."""

    data: dict[str, Any]
    problem: str = ""


class StateFile:
    """A JSON object on disk with a checksum, and a copy of it as `<name>.old`.

    A damaged file (truncated, altered, empty, gone) is noticed, said, and written again from its copy; a damaged or
    missing copy likewise. When both are damaged the state is empty and `load().problem` says so. The caller decides
    what that means.
    """

    def __init__(self, path: Path, mode: int = 0o644) -> None:
        self.path = path
        self._copy = path.with_name(path.name + ".old")
        self._mode = mode
        self._current: bytes | None = None

    def load(self) -> Loaded:
        """Return the intact content, and mend what is damaged; an empty object if there is none."""
        problems: list[str] = []
        found: list[bytes | None] = []
        for path in (self.path, self._copy):
            try:
                raw = path.read_bytes()
            except FileNotFoundError:
                found.append(None)
                continue
            except OSError as error:
                problems.append(f"{path.name}: {explain(error)}")
                found.append(None)
                continue
            intact = _parse(raw) is not None
            found.append(raw if intact else None)
            if not intact:
                problems.append(f"{path.name} is damaged ({len(raw)} bytes)")
        main, copy = found
        newest = main if main is not None else copy
        if newest is None:
            return Loaded({}, "; ".join(problems))
        if main is None and not problems:
            problems.append(f"{self.path.name} is gone")
        if main is None or copy is None:
            problems += self._mend(self.path if main is None else self._copy, newest, bool(problems))
        self._current = newest
        return Loaded(_parse(newest) or {}, "; ".join(problems))

    def _mend(self, path: Path, raw: bytes, damaged: bool) -> list[str]:
        """Write a file again from the other one; returns what to say about it."""
        try:
            write_durably(path, raw, self._mode)
        except StateError as error:
            return [str(error)] if damaged else []
        return ["written again from the other copy"] if damaged else []

    def save(self, data: dict[str, Any]) -> None:
        """Write `data`; it is on disk when this returns.

        Raises:
            StateError: it could not be written; what was there before still is.
        """
        body = json.dumps(data, sort_keys=True, separators=(",", ":"))
        raw = f"{hashlib.sha256(body.encode()).hexdigest()}\n{body}\n".encode()
        if raw == self._current:
            return
        write_durably(self.path, raw, self._mode)
        self._current = raw
        # A crash in between leaves the content before this one as the copy, which is intact as well.
        write_durably(self._copy, raw, self._mode)


def _parse(raw: bytes) -> dict[str, Any] | None:
    digest, _, body = raw.partition(b"\n")
    body = body.removesuffix(b"\n")
    if hashlib.sha256(body).hexdigest().encode() != digest:
        return None
    value = json.loads(body)
    return value if isinstance(value, dict) else None
