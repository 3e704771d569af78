"""Outputs of a card: defaults of each decoder, and values that are refused."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from edgec.runtime.card import Output, Ssd, Ultraface, Yolov8


def parse(**fields: Any) -> Output:
    return msgspec.convert(fields, Output)  # type: ignore[arg-type]


def test_the_decoder_chooses_the_output_and_its_defaults() -> None:
    face, detector = parse(decoder="ultraface"), parse(decoder="yolov8", score_threshold=0.9)
    assert isinstance(face, Ultraface)
    assert (face.decoder, face.score_threshold, face.nms_threshold) == ("ultraface", 0.7, 0.3)
    assert isinstance(detector, Yolov8)
    assert (detector.score_threshold, detector.nms_threshold) == (0.9, 0.45)


def test_an_ssd_needs_anchors_only_where_it_decodes() -> None:
    names = {"decoder": "ssd", "scores": "s", "boxes": "b"}
    with pytest.raises(
        msgspec.ValidationError, match=r'anchors are needed to decode boxes .*coding = "corner"'
    ):
        parse(**names)
    corner = parse(**names, coding="corner")
    assert isinstance(corner, Ssd)
    assert corner.anchors == ()
    anchored = parse(**names, anchors=[{"rows": 2, "columns": 3, "sizes": [[0.5, 0.25]]}])
    assert isinstance(anchored, Ssd)
    assert anchored.anchors[0].sizes == ((0.5, 0.25),)


@pytest.mark.parametrize(
    "fields",
    [
        {"decoder": "classification", "threshold": 1.5},
        {"decoder": "classification", "top_k": 0},
        {"decoder": "ctc", "blank": -1},
        {"decoder": "yolov8", "max_detections": 0},
        {"decoder": "segmentation", "layout": "CHWN"},
        {"decoder": "unknown"},
    ],
)
def test_values_out_of_range_are_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(msgspec.ValidationError):
        parse(**fields)
