"""The fleet's plot: the last run of a size counts, and panels without figures stay empty."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from edgec.benchmarks.fleet.plot import draw, panels, read


def scale(devices: int, p50: float) -> dict[str, object]:
    cores = {"fleet": 0.5, "postgresql": 0.25}
    return {"what": "scale", "devices": devices, "overview_ms": {"p50": p50, "p99": 2 * p50}, "cores": cores}


def test_the_last_run_of_a_size_counts(tmp_path: Path) -> None:
    lines = [scale(1000, 9.0), scale(100, 2.0), scale(1000, 5.0)]
    (tmp_path / "a").write_text("".join(json.dumps(line) + "\n" for line in lines))
    found = read([tmp_path / "a"])
    (title, (median, worst)), *_ = panels(found)
    assert "overview" in title
    assert median == ("median", [(100.0, 2.0), (1000.0, 5.0)])
    assert worst == ("99 %", [(100.0, 4.0), (1000.0, 10.0)])


def test_points_are_drawn_where_their_axes_say() -> None:
    picture = draw({"scale": [scale(100, 1.0), scale(10_000, 10.0)]})
    blue = np.argwhere((picture == (180, 110, 40)).all(axis=2))
    (top, right), (bottom, left) = blue[blue[:, 0].argmin()], blue[blue[:, 0].argmax()]
    assert right > left + 500
    assert bottom > top
    assert (picture[2 * 300 + 60 : 3 * 300 - 45] != (180, 110, 40)).any(axis=2).all()
