"""What a tuning cache knows of candidates: their places in the order of estimates, and their times."""

from __future__ import annotations

import json
from pathlib import Path

from edgec.benchmarks.estimates.agreement import FEWEST, Timed


def collect(cache: Path) -> dict[str, Timed]:
    """The candidates timed of each workload (not of families) in a tuning cache, where there are enough of them."""
    found: dict[str, Timed] = {}
    for path in sorted(cache.rglob("*.json")):
        entry = json.loads(path.read_text(encoding="utf-8"))
        timed = entry.get("timed", [])
        if len(timed) >= FEWEST:
            found[entry["key"]] = [(str(s), int(place), round(float(us), 1)) for s, place, us in timed]
    return found
