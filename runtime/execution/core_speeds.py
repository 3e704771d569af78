"""How fast the cores of a machine are beside each other, by Linux's own table of big and little cores."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

_CORES = Path("/sys/devices/system/cpu")


def speeds_of(cores: Sequence[int], folder: Path = _CORES) -> tuple[int, ...] | None:
    """The speed of each core (1024 is the fastest of the machine); None where all are equal, or nothing is known.

    Args:
        cores: by number.
        folder: with a folder for each core, whose file `cpu_capacity` has its speed.
    """
    try:
        found = tuple(int((folder / f"cpu{core}" / "cpu_capacity").read_text("ascii")) for core in cores)
    except (OSError, ValueError):
        return None
    return found if len(set(found)) > 1 and min(found) > 0 else None
