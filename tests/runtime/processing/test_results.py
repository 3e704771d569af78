"""Results as JSON: every kind has its type, and only what JSON can hold."""

from __future__ import annotations

import json

import numpy as np
import pytest

import edgec.runtime as rt
from edgec.runtime.processing.decoders import default_palette

MASK = np.array([[0, 2], [2, 2]], np.uint8)
SEGMENTATION = rt.Segmentation(MASK, {2: "cat", 0: "none"}, {2: 0.75, 0: 0.25}, default_palette(), 0)


@pytest.mark.parametrize(
    ("result", "expected"),
    [
        (
            rt.Detection(rt.Box(1, 2, 4, 8), "cat", 2, 0.5, (rt.Point(1, 2, 0.5, "eye"),)),
            {"type": "detection", "label": "cat", "class_id": 2, "score": 0.5,
             "box": {"left": 1, "top": 2, "right": 4, "bottom": 8},
             "points": [{"x": 1, "y": 2, "score": 0.5, "name": "eye"}]},
        ),
        (
            rt.Classification("cat", 2, 0.5),
            {"type": "classification", "label": "cat", "class_id": 2, "score": 0.5},
        ),
        (
            SEGMENTATION,
            {"type": "segmentation", "width": 2, "height": 2, "classes": [
                {"class_id": 2, "label": "cat", "share": 0.75}, {"class_id": 0, "label": "none", "share": 0.25}]},
        ),
        (
            rt.Sound("alarm", 0, 0.5, 1.0, 2.0),
            {"type": "sound", "label": "alarm", "class_id": 0, "score": 0.5, "start_s": 1.0, "end_s": 2.0},
        ),
        (rt.Anomaly(3.0, True), {"type": "anomaly", "score": 3.0, "anomalous": True}),
        (rt.Embedding(np.float32([0.5, -1])), {"type": "embedding", "vector": [0.5, -1.0]}),
        (rt.Text("A1", 0.5), {"type": "text", "text": "A1", "score": 0.5}),
        (rt.Raw({"y": np.int64([[1], [2]])}), {"type": "raw", "outputs": {"y": [[1], [2]]}}),
    ],
)  # fmt: skip
def test_results_become_json(result: rt.Result, expected: dict[str, object]) -> None:
    assert json.loads(json.dumps(result.to_json())) == expected


def test_a_mask_is_coloured_by_class() -> None:
    picture = SEGMENTATION.coloured()
    assert picture.shape == (2, 2, 3)
    assert picture[0, 0].tolist() == [0, 0, 0]
    assert (picture[0, 1] == picture[1, 0]).all()
    assert picture[0, 1].any()


def test_a_box_has_a_size() -> None:
    assert (rt.Box(1, 2, 4, 8).width, rt.Box(1, 2, 4, 8).height) == (3, 6)
