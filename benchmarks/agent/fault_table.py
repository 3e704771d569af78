"""Summarise the fault log of tests: `python -m edgec.benchmarks.agent.fault_table faults.jsonl`.

The tests of the device agent append a line per case to the file named by `EDGEC_FAULT_LOG`: the fault, the seconds
until recovery, and the number of lost events. Cases of one fault differ in the text after a colon.
"""

from __future__ import annotations

import json
import statistics
import sys
from pathlib import Path


def table(lines: list[str]) -> list[str]:
    """Rows of Markdown: fault, cases, events lost, seconds (median, maximum)."""
    cases: dict[str, list[tuple[float, int | None]]] = {}
    for line in lines:
        case = json.loads(line)
        cases.setdefault(case["fault"].partition(":")[0], []).append((case["seconds"], case["lost"]))
    rows = ["| fault | cases | events lost | seconds: median, most |", "|---|---|---|---|"]
    for fault, seen in cases.items():
        seconds = [one[0] for one in seen]
        lost = [one[1] for one in seen if one[1] is not None]
        times = f"{statistics.median(seconds):.2g}, {max(seconds):.2g}"
        rows.append(f"| {fault} | {len(seen)} | {sum(lost) if lost else '–'} | {times} |")
    return rows


def main() -> None:
    """Print the rows."""
    print("\n".join(table(Path(sys.argv[1]).read_text(encoding="utf-8").splitlines())))


if __name__ == "__main__":
    main()
