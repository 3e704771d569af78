"""Detectors' outputs become boxes: each family's encoding, and suppression."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import edgec.runtime as rt
from edgec.runtime.card import AnchorLayer
from edgec.runtime.processing.boxes import ssd_anchors, suppress
from tests.runtime.processing.cards import boxes_of, decoded, overlap


@settings(max_examples=60, deadline=None)
@given(data=st.data(), threshold=st.sampled_from([0.3, 0.45, 0.7]))
def test_suppression_is_the_textbooks(data: Any, threshold: float) -> None:
    count = data.draw(st.integers(0, 25))
    corner = hnp.arrays(np.float64, (count, 2), elements=st.integers(0, 60))
    low, size = data.draw(corner), data.draw(corner) + 1
    boxes = np.concatenate([low, low + size], axis=1)
    scores = data.draw(hnp.arrays(np.float64, count, elements=st.integers(0, 20))) / 20
    classes = data.draw(hnp.arrays(np.int64, count, elements=st.integers(0, 2)))
    kept: list[int] = []
    for number in sorted(range(count), key=lambda n: (-scores[n], n)):
        rivals = [k for k in kept if classes[k] == classes[number]]
        if all(overlap(boxes[k], boxes[number]) <= threshold + 1e-12 for k in rivals):
            kept.append(number)
    assert suppress(boxes, scores, classes, threshold, 100).tolist() == kept
    assert suppress(boxes, scores, classes, threshold, 3).tolist() == kept[:3]


def test_yolox_reads_cells_and_strides() -> None:
    rows = np.full((1, 64 + 16 + 4, 5 + 2), -9.0, np.float32)
    rows[..., 4:] = 0
    rows[0, 64 + 16 + 3] = [0.5, 0.25, np.log(1.0), np.log(0.5), 0.9, 0.0, 0.8]  # stride 32, cell (1, 1)
    rows[0, 0] = [0, 0, 0, 0, 0.2, 0.9, 0]  # below the threshold
    found = decoded({"out": rows}, {"decoder": "yolox"}, labels=["cat", "dog"])
    ((label, score, box),) = boxes_of(found)
    assert (label, score) == ("dog", 0.72)
    # Centre (48, 40), size (32, 16) in the input; a pixel of the input is 3.125 × 1.5625 of the frame.
    assert box == pytest.approx([32 * 3.125, 32 * 1.5625, 64 * 3.125, 48 * 1.5625])


def test_strides_that_do_not_fit_the_model_are_refused() -> None:
    with pytest.raises(rt.InputError, match="give 80 anchors, but the model has 84"):
        decoded({"out": np.zeros((1, 84, 6))}, {"decoder": "yolox", "strides": [8, 16]})


@pytest.mark.parametrize("normalised", [False, True])
def test_yolov5_and_yolov8_agree_on_the_same_boxes(normalised: bool) -> None:
    random = np.random.default_rng(0)
    unit = 64 if normalised else 1
    boxes = np.concatenate([random.uniform(20, 44, (40, 2)), random.uniform(4, 20, (40, 2))], axis=1) / unit
    scores = random.uniform(0, 1, (40, 3))
    v5 = np.concatenate([boxes, np.ones((40, 1)), scores], axis=1)[None].astype(np.float32)
    v8 = np.concatenate([boxes, scores], axis=1).T[None].astype(np.float32)
    first = decoded({"o": v5}, {"decoder": "yolov5", "normalised": normalised, "score_threshold": 0.6})
    second = decoded({"o": v8}, {"decoder": "yolov8", "normalised": normalised, "score_threshold": 0.6})
    assert first == second
    assert len(first) > 5
    assert [d.score for d in first] == sorted((d.score for d in first), reverse=True)


def test_classes_suppress_only_their_own_kind() -> None:
    rows = np.array([[[32, 32, 20, 20, 1, 0.9, 0], [32, 32, 20, 20, 1, 0, 0.8], [33, 32, 20, 20, 1, 0.7, 0]]])
    assert [d.class_id for d in decoded({"o": rows}, {"decoder": "yolov5"})] == [0, 1]
    assert [d.class_id for d in decoded({"o": rows}, {"decoder": "yolov5", "class_wise": False})] == [0]


def test_ssd_decodes_what_its_own_encoding_gives() -> None:
    layers = (
        AnchorLayer(rows=4, columns=4, sizes=((0.2, 0.3),)),
        AnchorLayer(rows=2, columns=2, sizes=((0.5, 0.5), (0.7, 0.4))),
    )
    anchors = ssd_anchors(layers)
    assert anchors.shape == (24, 4)
    assert anchors[1].tolist() == pytest.approx([0.375, 0.125, 0.2, 0.3])
    truth = np.array([0.4, 0.5, 0.3, 0.2])  # centre x, y, width, height
    codes = np.zeros((1, 24, 4), np.float32)
    codes[0, 20, :2] = (truth[:2] - anchors[20, :2]) / anchors[20, 2:] / 0.1
    codes[0, 20, 2:] = np.log(truth[2:] / anchors[20, 2:]) / 0.2
    scores = np.zeros((1, 24, 3), np.float32)
    scores[..., 0] = 9
    scores[0, 20] = [0, 1, 7]
    spec = {"decoder": "ssd", "scores": "s", "boxes": "b", "anchors": msgspec.to_builtins(layers)}
    ((label, score, box),) = boxes_of(decoded({"s": scores, "b": codes}, spec, labels=["a", "b"]))
    assert (label, score) == ("b", 0.997)
    assert box == pytest.approx([0.25 * 200, 0.4 * 100, 0.55 * 200, 0.6 * 100], abs=1e-3)
    turned = codes[..., [1, 0, 3, 2]]
    assert boxes_of(decoded({"s": scores, "b": turned}, spec | {"order": "yx"}))[0][2] == pytest.approx(
        box, abs=1e-3
    )


def test_a_missing_output_is_named() -> None:
    with pytest.raises(rt.InputError, match="names output 'boxes', but the model has scores"):
        decoded({"scores": np.ones((1, 3, 2))}, {"decoder": "ultraface"})
