"""Results are saved whole, and as what they were."""

from __future__ import annotations

import json
from pathlib import Path

from edgec.benchmarks.networks.results import Measurement, Results


def test_results_come_back(tmp_path: Path) -> None:
    one = Measurement("n", "zoo", 2, {"edgec": [1.0]}, quantised=True)
    file = tmp_path / "folder" / "benchmarks.json"
    Results({"target": "host"}, [one]).save(file)
    content = json.loads(file.read_text(encoding="utf-8"))
    assert [Measurement(**entry) for entry in content["measurements"]] == [one]
    assert content["machine"] == {"target": "host"}
    assert [path.name for path in file.parent.iterdir()] == [file.name]
