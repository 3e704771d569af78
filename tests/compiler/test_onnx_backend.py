"""The standard's own node tests through the compiler, as part of the long tests."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent


@pytest.mark.long
@pytest.mark.timeout(7200)
def test_the_standard_node_tests(tmp_path: Path) -> None:
    results = tmp_path / "coverage.jsonl"
    script = [sys.executable, str(ROOT / "scripts/operator_coverage.py"), "--results", str(results)]
    subprocess.run([*script, "--document", str(tmp_path / "operators.md")], check=True)
    counts = Counter(json.loads(line)["result"] for line in results.read_text().splitlines())
    counted = sum(counts.values()) - counts["excluded"]
    assert counts["native"] >= 0.85 * counted
    assert counts["native"] + counts["fallback"] >= 0.95 * counted
