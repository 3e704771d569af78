"""The summary of a soak: a leak shows as a slope with its error, and the first fifth does not count."""

from __future__ import annotations

import numpy as np
import pytest

from edgec.benchmarks.agent.soak import summary
from edgec.benchmarks.agent.soak_plot import draw


def rows(mb_per_hour: float, noise: float = 0.0) -> np.ndarray:
    seconds = np.arange(10.0, 7200.0, 10.0)
    memory = (
        100 + mb_per_hour * seconds / 3600 + noise * np.random.default_rng(0).standard_normal(len(seconds))
    )
    memory[: len(memory) // 10] += 50  # while it starts
    return np.stack(
        [seconds, memory, np.full_like(seconds, 5.0), np.full_like(seconds, 20.0), seconds], axis=1
    )


@pytest.mark.parametrize("leak", [0.0, 3.0])
def test_a_leak_is_a_slope(leak: float) -> None:
    told = summary(rows(leak, noise=0.5))
    assert abs(told["slope_mb_per_hour"] - leak) < 4 * told["slope_standard_error"]
    assert told["slope_standard_error"] < 0.1
    assert told["memory_mb"]["most"] < 120
    assert (told["fps"], told["p50_ms"]) == (5.0, 20.0)


def test_a_plot_has_a_panel_for_each_figure() -> None:
    picture = draw(rows(1.0))
    coloured = (picture.max(axis=2) - picture.min(axis=2) > 60).any(axis=1)
    assert [bool(coloured[top : top + 180].any()) for top in (40, 260, 480)] == [True, True, True]
