"""`edgec profile`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.conftest import Edgec


def test_profile_puts_each_layer_beside_what_the_machine_can_do(
    edgec: Edgec, folder: Path, artifact: Path
) -> None:
    options = ("--repeats", "6", "--seconds", "0.5")
    profile = json.loads(edgec("profile", artifact, *options, "--json", cwd=folder).stdout)
    first = next(layer for layer in profile["layers"] if "first" in layer["nodes"])
    assert first["op"] == "conv2d"
    assert first["schedule"]
    assert 0 < first["peak_share_quartiles"][0] <= first["peak_share"] <= first["peak_share_quartiles"][1]
    assert first["bytes"] > first["weight_bytes"] >= 8 * 3 * 9 * 4
    assert first["bound"] in ("compute", "L2", "L3", "memory")
    assert first["runs"] == profile["runs"] >= 1
    assert profile["run_ms"] > 0
    assert profile["peak"]["high"] >= profile["peak"]["low"] > 0
    assert all(profile["bandwidth"][place] > 0 for place in ("l2", "memory"))
    assert sum(kind["share"] for kind in profile["kinds"]) == pytest.approx(1)
    shown = edgec("profile", artifact, *options, "--plot", "small.svg", cwd=folder)
    assert shown.returncode == 0, shown.stderr
    assert (folder / "small.svg").read_text().startswith("<svg")
    (folder / "small.svg").unlink()
    assert "GFLOP/s (fp32) peak" in shown.stdout
    assert "by kind" in shown.stdout
