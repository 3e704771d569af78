"""Results are drawn and written as JSON."""

from __future__ import annotations

import numpy as np

import edgec.runtime as rt
from edgec.runtime.processing.image import Placement
from tests.runtime.processing.cards import decoded


def test_every_kind_of_result_is_drawn_and_written_as_json() -> None:
    import json

    frame = np.full((120, 160, 3), 128, np.uint8)
    points = (rt.Point(10, 10, 0.9, "a"), rt.Point(50, 50, 0.9, "b"))
    results: list[rt.Result] = [
        rt.Detection(rt.Box(-5, 20, 100, 300), "cat", 3, 0.5, points),
        rt.Classification("dog", 1, 0.9),
        rt.Keypoints(points, 0.9, ((0, 1), (1, 7))),
        rt.Sound("glass", 0, 0.7, 0.0, 1.0),
        rt.Anomaly(0.3, False),
        rt.Embedding(np.ones(3, np.float32)),
        rt.Raw({"o": np.ones((1, 2))}),
        *decoded(
            {"o": np.random.default_rng(0).normal(size=(1, 3, 8, 8))},
            {"decoder": "segmentation"},
            Placement(160, 120, 0.4, 0.5, 0, 0),
        ),
    ]
    before = frame.copy()
    for one in results:
        drawn = rt.draw(frame, [one])
        assert drawn.shape == frame.shape
        assert isinstance(one, rt.Embedding | rt.Raw) == bool((drawn == frame).all())
        assert json.loads(json.dumps(one.to_json()))["type"]
    np.testing.assert_array_equal(frame, before)
    assert rt.draw(frame[:, :, 0], results).shape == frame.shape
