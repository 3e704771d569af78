"""The table of faults sums cases up by what comes before the colon."""

from __future__ import annotations

import json

from edgec.benchmarks.agent.fault_table import table

CASES = [
    {"fault": "camera hangs: a", "seconds": 1.0, "lost": 0},
    {"fault": "camera hangs: b", "seconds": 3.0, "lost": 2},
    {"fault": "power cut", "seconds": 0.51, "lost": None},
]


def test_cases_of_one_fault_share_a_row() -> None:
    assert table([json.dumps(case) for case in CASES])[2:] == [
        "| camera hangs | 2 | 2 | 2, 3 |",
        "| power cut | 1 | – | 0.51, 0.51 |",
    ]
