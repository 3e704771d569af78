"""Space on the disk: pictures come last. What they leave free is for the outbox and for updates."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from pathlib import Path

log = logging.getLogger("disk")

_SHARE = 4
"""The reserve is never more than this fraction of the disk: on a small one, pictures get something, too."""


@dataclass(frozen=True)
class Reserve:
    """Bytes that pictures leave free on the disk of a folder."""

    folder: Path
    wanted: int

    @property
    def size(self) -> int:
        """The reserve in bytes, on this disk."""
        usage = os.statvfs(_existing(self.folder))
        return min(self.wanted, usage.f_blocks * usage.f_frsize // _SHARE)

    def left(self) -> int:
        """Bytes that pictures may still take; negative when the reserve is touched."""
        return free_bytes(self.folder) - self.size

    def refusal(self) -> str:
        """Say why no picture is stored."""
        return (
            f"{free_bytes(self.folder) / 1e6:.1f} MB are free, {self.size / 1e6:.1f} MB are kept for the outbox and "
            "updates: no picture is stored; free some space"
        )


def free_bytes(folder: Path) -> int:
    """Return the bytes that may be written to the folder's disk."""
    usage = os.statvfs(_existing(folder))
    return usage.f_bavail * usage.f_frsize


def make_room(pictures: Path, wanted: int) -> int:
    """Delete the oldest snapshots and clips until `wanted` bytes are free; returns the number of bytes deleted."""
    deleted = 0
    try:
        files = sorted(
            (path.stat().st_mtime, path) for path in pictures.iterdir() if not path.name.startswith(".")
        )
        for _, path in files:
            if free_bytes(pictures) >= wanted:
                break
            size = path.stat().st_size
            path.unlink(missing_ok=True)
            deleted += size
    except (
        OSError
    ) as error:  # There are no pictures, or one was deleted this moment: what was freed is freed.
        log.info("no more room among the pictures: %s", error)
    if deleted:
        log.warning("%.1f MB of the oldest snapshots and clips were deleted to make room", deleted / 1e6)
    return deleted


def _existing(folder: Path) -> Path:
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return folder
