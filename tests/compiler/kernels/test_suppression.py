"""Chosen boxes are those of the definition, however few of many candidates are wanted."""

from __future__ import annotations

import numpy as np
import pytest

from edgec.compiler.kernels.suppression import chosen_boxes
from tests.compiler.kernels.compiled import call
from tests.compiler.samples.chosen import suppressed


@pytest.mark.parametrize("most", [1, 10, 400])
@pytest.mark.parametrize("least", [None, 0.25])
def test_equals_the_definition(most: int, least: float | None) -> None:
    rng, sizes = np.random.default_rng(most), (4, 2, 900)
    low = rng.uniform(0, 1, (4, 900, 2))
    low[0] = 0.5  # all but the best overlap: every portion is read
    boxes = np.concatenate([low, low + rng.uniform(0.18, 0.2, low.shape)], -1).astype("float32")
    scores = rng.random(sizes).astype("float32")
    scores[1] = np.round(scores[1] * 8) / 8
    scores[2] = 0.5
    chosen, counts = np.zeros((4, 2, most), "int32"), np.zeros((4, 2), "int64")
    kernel = chosen_boxes("chosen", sizes, most, centred=False, limited=least is not None)
    limits = [np.array([most], "int64"), np.array([0.4], "float32"), np.array([least or 0], "float32")]
    call(kernel, boxes, scores, *limits, chosen, counts)
    got = [(*row, place) for row in np.ndindex(4, 2) for place in chosen[row][: counts[row]]]
    np.testing.assert_array_equal(got, suppressed(boxes, scores, most, 0.4, least))
