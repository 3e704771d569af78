"""Detections from anchors, and boxes that suppress each other."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("ai_edge_litert", reason="optional: pip install 'edgec[tflite]'")
from ai_edge_litert import schema_py_generated as schema

from edgec.compiler.errors import UnsupportedModel
from edgec.compiler.frontends.tflite.flat import read
from edgec.compiler.frontends.tflite.load import to_onnx
from tests.compiler.frontends.tflite.models import Cases, assert_same

KIND = "TFLite_Detection_PostProcess"
OPTIONS = {
    **{f"{axis}_scale": 10.0 if axis in "yx" else 5.0 for axis in "yxhw"},
    "max_detections": 5,
    "max_classes_per_detection": 1,
    "detections_per_class": 100,
    "nms_score_threshold": 0.2,
    "nms_iou_threshold": 0.5,
    "num_classes": 3,
}


def detections(cases: Cases, rng: np.random.Generator, anchors: int, **changed: float | bool) -> None:
    """The operator on random boxes around a grid of anchors, with a score of the background."""
    options = OPTIONS | changed
    classes = int(options["num_classes"])
    places = np.column_stack([rng.random((anchors, 2)), np.full((anchors, 2), 0.3)]).astype("float32")
    codes = rng.standard_normal((1, anchors, 4)).astype("float32")
    # scores that are far apart, so that no order hangs on the last bit
    scores = rng.permutation(anchors * (classes + 1)).reshape(1, anchors, -1) / (anchors * (classes + 1))
    inputs = [cases.input(codes), cases.input(scores.astype("float32")), cases.constant(places)]
    cases.op(KIND, inputs, [cases.tensor([]) for _ in range(4)], custom=options)


def test_detections(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    cases = Cases()
    for changed in (
        {},
        {"nms_score_threshold": 0.9},
        {"nms_score_threshold": 0.999},
        {"max_classes_per_detection": 2},
        {"use_regular_nms": True},
        {"use_regular_nms": True, "detections_per_class": 1},
        {"nms_iou_threshold": 0.1, "max_detections": 8},
    ):
        detections(cases, rng, 12, **changed)
    assert_same(cases, tmp_path, tolerance=1e-5)


def test_boxes_that_suppress_each_other(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    cases = Cases()
    for count, overlap, threshold in ((4, 0.5, 0.1), (10, 0.3, 0.6), (6, 0.99, -1.0)):
        corners = rng.random((9, 2))
        boxes = np.column_stack([corners, corners + rng.uniform(-0.6, 0.6, (9, 2))]).astype("float32")
        scores = (rng.permutation(9) / 9).astype("float32")
        numbers = [np.array(count, np.int32), np.array(overlap, "float32"), np.array(threshold, "float32")]
        given = [cases.input(boxes), cases.input(scores), *map(cases.constant, numbers)]
        made = [cases.tensor([], "int32"), cases.tensor([], "int32")]
        cases.op("NON_MAX_SUPPRESSION_V4", given, made, schema.NonMaxSuppressionV4OptionsT())
        for sigma in (0.0, 0.4):
            soft = [cases.tensor([], "int32"), cases.tensor([]), cases.tensor([], "int32")]
            inputs = [*given, cases.constant(np.array(sigma, "float32"))]
            cases.op("NON_MAX_SUPPRESSION_V5", inputs, soft, schema.NonMaxSuppressionV5OptionsT())
    assert_same(cases, tmp_path, tolerance=1e-5)


def test_a_thousand_detections_are_refused(tmp_path: Path) -> None:
    cases = Cases()
    detections(cases, np.random.default_rng(0), 12, max_detections=1000)
    path = cases.save(tmp_path, shaped=False)
    for tensor in cases.tensors[:3]:
        assert tensor.shape
    with pytest.raises(UnsupportedModel, match="selects 1000 boxes"):
        to_onnx(read(path.read_bytes(), path), path)
