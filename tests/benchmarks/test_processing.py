"""The benchmark of pre- and postprocessing compares what it times."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest

from edgec.benchmarks import processing
from edgec.compiler.verify.timing import time_in_blocks
from edgec.runtime.execution.shared_libraries import ensure_runtime
from edgec.runtime.processing.compiled import CompiledProcessing


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that ends each block after two runs."""
    ensure_runtime(lambda _: None)
    ticks = iter(range(10**6))

    def measure(sides: Mapping[str, Callable[[], Any]]) -> processing.Times:
        return time_in_blocks(sides, runs=1, limit_s=0, warmup=0, clock=lambda: float(next(ticks)))

    monkeypatch.setattr(processing, "measure", measure)


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
def test_pixels_of_both_sides_are_equal(layout: str) -> None:
    assert list(processing.pixels(24, 16, layout)) == ["compiled", "numpy and OpenCV"]


@pytest.mark.parametrize(
    ("decoder", "shape"), [("yolox", (1, 84, 85)), ("yolov5", (1, 84, 85)), ("yolov8", (1, 84, 84))]
)
def test_boxes_of_both_sides_are_equal(decoder: str, shape: tuple[int, ...]) -> None:
    assert len(processing.boxes(decoder, 64, shape)) == 2


def test_sides_that_differ_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(CompiledProcessing, "detect", lambda *_: [])
    with pytest.raises(ValueError, match="the compiled decoder finds other boxes than numpy's"):
        processing.boxes("yolov8", 64, (1, 84, 84))
    monkeypatch.setattr(CompiledProcessing, "prepare", lambda _self, _picture, out: out.fill(np.float32(0)))
    with pytest.raises(AssertionError, match="not equal"):
        processing.pixels(24, 16, "NCHW")
