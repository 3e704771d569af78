"""Accuracy of made-up detections."""

from __future__ import annotations

import numpy as np
import pytest

from edgec.models.metrics import accuracy, overlaps, rows
from edgec.runtime.processing.results import Box, Detection


def test_average_precision_of_made_up_detections() -> None:
    """Two right and one wrong of three truths: precision 1, 1, 2/3 at recalls 1/3, 2/3, 2/3."""
    truth = np.array([[0, 0, 0, 10, 10], [0, 20, 20, 30, 30], [0, 50, 50, 60, 60]], np.float32)
    found = np.array([[0, 0, 0, 10, 9, 0.9], [0, 20, 20, 30, 31, 0.8], [0, 80, 80, 90, 90, 0.7]], np.float32)
    result = accuracy([found], [truth], 1, 0.75)
    assert result.map50 == pytest.approx(2 / 3)
    assert result.precision == 1.0
    assert result.recall == pytest.approx(2 / 3)
    twice = np.concatenate([found[:1], found[:1]])
    assert accuracy([twice], [truth], 1, 0.5).precision == 0.5  # a truth is found once
    assert overlaps(truth[:1, 1:], found[:1, 1:5])[0, 0] == pytest.approx(0.9)
    assert rows([Detection(Box(1, 2, 3, 4), "x", 2, 0.5)]).tolist() == [[2, 1, 2, 3, 4, 0.5]]
    assert accuracy([found[:0]], [truth], 1, 0.5).map50 == 0.0
