"""Store how candidates that were timed on this machine rank beside their estimates.

`python -m edgec.benchmarks.estimates.collect CACHE` reads the tuning cache CACHE, which compiles with `--tune full
--cache
CACHE` filled on this machine, and writes `<family>.json` beside this file, from which the results page and a test
take it.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from edgec.benchmarks.estimates.agreement import FEWEST, FOLDER, agreement
from edgec.targets.microarchitecture import this_processor


def collect(cache: Path) -> dict[str, list[tuple[str, int, float]]]:
    """The candidates timed of each workload (not of families), where there are enough of them."""
    found: dict[str, list[tuple[str, int, float]]] = {}
    for path in sorted(cache.rglob("*.json")):
        entry = json.loads(path.read_text(encoding="utf-8"))
        timed = entry.get("timed", [])
        if len(timed) >= FEWEST:
            found[entry["key"]] = [(str(s), int(place), round(float(us), 1)) for s, place, us in timed]
    return found


def main() -> None:
    """Run the command line."""
    measured, family = collect(Path(sys.argv[1])), this_processor()[1]
    (FOLDER / f"{family}.json").write_text(
        json.dumps(measured, indent=0, sort_keys=True) + "\n", encoding="utf-8"
    )
    sys.stdout.write(f"{family}: {agreement(measured)}\n")


if __name__ == "__main__":
    main()
