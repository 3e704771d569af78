"""Winners on disk: the fastest known schedule of each workload on a target.

One small JSON file per workload, written under a temporary name and renamed: processes can share the folder, a crash
leaves nothing half-written, and a file that cannot be read counts as absent.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache as memoise
from pathlib import Path
from typing import TypeAlias

from edgec.compiler.cache_folder import default_folder

FORMAT = 1
SHIPPED = Path(__file__).parent / "shipped"  # winners that ship with the package


# A candidate by its text, its place in the order of estimates, and its time in microseconds.
Timed: TypeAlias = tuple[str, int, float]


@dataclass(frozen=True)
class Winner:
    """The schedule chosen for a workload, by its text, and its time where it was measured."""

    schedule: str
    microseconds: float


class TuningCache:
    """The winners of one target: the user's own, then those that ship with the package."""

    def __init__(self, folder: Path | None, target_key: str, shipped_keys: Sequence[str] = ()) -> None:
        self.folder = (folder or default_folder() / "tuning") / _safe(target_key)
        self.shipped_keys = tuple(shipped_keys)

    def get(self, key: str, effort: str) -> Winner | None:
        """The winner for a workload found with at least `effort` (`fast` or `full`), if any."""
        try:
            entry = json.loads(self._path(key).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            entry = None
        fits = isinstance(entry, dict) and entry.get("format") == FORMAT and entry.get("key") == key
        if fits and (effort != "full" or entry.get("effort") == "full"):
            return Winner(str(entry["schedule"]), float(entry["us"]))
        if effort == "full":
            return None
        found = (_shipped().get(own, {}).get(key) for own in self.shipped_keys)
        shipped = next((winner for winner in found if winner), None)
        return Winner(str(shipped[0]), float(shipped[1])) if shipped else None

    def put(self, key: str, winner: Winner, effort: str, timed: Sequence[Timed] = ()) -> None:
        """Store a winner, and the candidates that were timed for it.

        A folder that cannot be written is ignored: the cache only saves time.
        """
        entry = {
            "format": FORMAT,
            "key": key,
            "schedule": winner.schedule,
            "us": winner.microseconds,
            "effort": effort,
            **({"timed": list(timed)} if timed else {}),
        }
        path = self._path(key)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            handle, name = tempfile.mkstemp(dir=path.parent, prefix=".new-")
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                json.dump(entry, file, sort_keys=True)
            Path(name).replace(path)
        except OSError:
            return

    def _path(self, key: str) -> Path:
        return self.folder / f"{hashlib.sha256(key.encode()).hexdigest()[:40]}.json"


def _safe(text: str) -> str:
    return "".join(c if c.isalnum() or c in "-_." else "_" for c in text)


@memoise
def _shipped() -> dict[str, dict[str, tuple[str, float]]]:
    found: dict[str, dict[str, tuple[str, float]]] = {}
    for file in sorted(SHIPPED.glob("*.json")):
        found.update(json.loads(file.read_text(encoding="utf-8")))
    return found
