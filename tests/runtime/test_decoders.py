"""Decoders against the plainest loops that say the same, on generated outputs, and back to the frame's
pixels.
"""

from __future__ import annotations

import itertools
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import edgec.runtime as rt
from edgec.runtime.card import AnchorLayer
from edgec.runtime.processing.activations import activate
from edgec.runtime.processing.boxes import ssd_anchors, suppress
from edgec.runtime.processing.decoders import decode
from edgec.runtime.processing.image import Picture, Placement, place

PLACE = Placement(200, 100, 0.32, 0.64, 0.0, 0.0)  # a frame of 200 × 100 stretched to 64 × 64


def card(output: dict[str, Any], **changes: Any) -> rt.ModelCard:
    source = {"kind": "image", "width": 64, "height": 64} | changes.pop("input", {})
    return msgspec.convert({"input": source, "output": output} | changes, rt.ModelCard)


def decoded(
    outputs: dict[str, Any], output: dict[str, Any], place: Placement = PLACE, **changes: Any
) -> list[Any]:
    return decode(outputs, card(output, **changes), given=np.zeros(1), place=place)


def overlap(a: Any, b: Any) -> float:
    width = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    height = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - width * height
    return width * height / union if union else 0.0


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


def boxes_of(found: list[rt.Detection]) -> list[tuple[str, float, list[float]]]:
    return [(d.label, round(d.score, 3), [d.box.left, d.box.top, d.box.right, d.box.bottom]) for d in found]


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


def test_classes_are_ranked_and_cut() -> None:
    logits = np.log(np.array([[0.1, 0.6, 0.25, 0.05]], np.float32))
    spec = {"decoder": "classification", "top_k": 3, "threshold": 0.2}
    found = decoded({"o": logits}, spec, labels=["a", "b", "c", "d"])
    assert [(one.label, round(one.score, 3)) for one in found] == [("b", 0.6), ("c", 0.25)]


@given(hnp.arrays(np.float32, (3, 5), elements=st.floats(-1e4, 1e4, width=32)))
def test_activations_stay_finite_and_within_bounds(values: Any) -> None:
    for kind in ("softmax", "sigmoid"):
        result = activate(values, kind)
        assert np.isfinite(result).all()
        assert ((result >= 0) & (result <= 1)).all()
    np.testing.assert_allclose(activate(values, "softmax").sum(axis=-1), 1, rtol=1e-5)


def test_a_heat_maps_peak_is_the_point() -> None:
    maps = np.zeros((1, 2, 8, 8), np.float32)
    maps[0, 0, 2, 4] = 0.9
    maps[0, 1, 7, 0] = 0.1
    (found,) = decoded({"o": maps}, {"decoder": "heatmap", "names": ["nose"]})
    nose, other = found.points
    assert (nose.name, nose.x, nose.y) == ("nose", pytest.approx(36 * 3.125), pytest.approx(20 * 1.5625))
    assert (other.name, round(other.score, 3)) == ("1", 0.1)
    assert found.score == pytest.approx(0.9)
    assert decoded({"o": maps * 0.1}, {"decoder": "heatmap"}) == []


def test_a_mask_covers_the_frame_through_a_letterbox() -> None:
    frame = np.zeros((100, 200, 3), np.uint8)
    _, where = place(frame, card({"decoder": "segmentation"}, input={"resize": "letterbox"}).input)  # type: ignore[arg-type]
    maps = np.zeros((1, 3, 64, 64), np.float32)
    maps[0, 0] = 0.5
    maps[0, 2, 16:32, :32] = 1  # the upper left quarter of the picture inside the borders
    maps[0, 1, :16] = 1  # the border
    (found,) = decoded({"o": maps}, {"decoder": "segmentation", "palette": [[1, 2, 3]]}, where)
    assert found.mask.shape == (100, 200)
    assert (found.mask[:50, :100] == 2).all()
    assert (found.mask[50:] == 0).all()
    assert (found.mask[:, 100:] == 0).all()
    assert found.shares == {0: 0.75, 2: 0.25}
    assert found.coloured()[99, 0].tolist() == [3, 2, 1]


def test_anomalies_and_embeddings() -> None:
    given = np.arange(4, dtype=np.float32).reshape(1, 4)
    spec = {"decoder": "anomaly", "score": "reconstruction", "threshold": 0.25}
    tensors = msgspec.convert({"input": {"kind": "tensor"}, "output": spec}, rt.ModelCard)
    (found,) = decode({"o": given + 0.5}, tensors, given=given)
    assert found == rt.Anomaly(0.25, True)
    (vector,) = decoded({"o": np.array([[3.0, 4.0]])}, {"decoder": "embedding"})
    np.testing.assert_allclose(vector.vector, [0.6, 0.8])


@settings(max_examples=60, deadline=None)
@given(
    steps=st.lists(st.integers(0, 5), min_size=1, max_size=20),
    blank=st.integers(0, 5),
    layout=st.sampled_from(["TC", "CT"]),
)
def test_greedy_text_is_what_is_left_without_repeats_and_blanks(
    steps: list[int], blank: int, layout: str
) -> None:
    scores = np.full((len(steps), 6), 0.02, np.float32)
    scores[np.arange(len(steps)), steps] = 0.9
    output = scores[None] if layout == "TC" else scores.T[None]
    spec = {"decoder": "ctc", "blank": blank, "layout": layout}
    card = msgspec.convert(
        {"input": {"kind": "tensor"}, "output": spec, "labels": list("abcd")}, rt.ModelCard
    )
    (found,) = decode({"o": output}, card, given=output)
    letters = [c for c in range(6) if c != blank]
    kept = [number for number, _ in itertools.groupby(steps) if number != blank]
    assert found.text == "".join("abcd "[letters.index(number)] for number in kept)
    assert found.score == (pytest.approx(0.9) if kept else 0.0)


@settings(max_examples=60, deadline=None)
@given(
    width=st.integers(1, 300),
    height=st.integers(1, 300),
    resize=st.sampled_from(["stretch", "letterbox", "crop"]),
    anchor=st.sampled_from(["centre", "top-left"]),
)
def test_a_box_around_a_marked_spot_comes_back_to_it(
    width: int, height: int, resize: str, anchor: str
) -> None:
    """The way back is the inverse of the way in, for any frame."""
    spec = card({"decoder": "raw"}, input={"resize": resize, "anchor": anchor}).input
    assert isinstance(spec, rt.card.ImageInput)
    frame = np.zeros((height, width, 3), np.uint8)
    picture, where = place(frame, spec)
    assert picture.shape == (64, 64, 3)
    corners = np.array([[0.0, 0.0], [width, height]])
    inside = corners * [where.scale_x, where.scale_y] + [where.offset_x, where.offset_y]
    np.testing.assert_allclose(where.to_frame(inside), corners, atol=1e-9)
    if resize != "crop":
        assert (inside >= -1e-9).all()
        assert (inside <= 64 + 1e-9).all()
    boxes = where.boxes_to_frame(np.array([[-1e6, -1e6, 1e6, 1e6]]))
    np.testing.assert_allclose(boxes, [[0, 0, width, height]])


@pytest.mark.parametrize("colour", ["rgb", "bgr", "gray"])
@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("gray_frame", [False, True])
def test_pixels_reach_the_model_as_the_card_says(colour: str, layout: str, gray_frame: bool) -> None:
    import cv2

    frame = np.random.default_rng(0).integers(0, 256, (64, 64) if gray_frame else (64, 64, 3), dtype=np.uint8)
    mean, scale = ([10.0], [0.5]) if colour == "gray" else ([10.0, 20.0, 30.0], [0.5, 0.25, 2.0])
    spec = card(
        {"decoder": "raw"}, input={"colour": colour, "layout": layout, "mean": mean, "scale": scale}
    ).input
    assert isinstance(spec, rt.card.ImageInput)
    bgr = cv2.cvtColor(frame, cv2.COLOR_GRAY2BGR) if gray_frame else frame
    seen = {
        "rgb": bgr[:, :, ::-1],
        "bgr": bgr,
        "gray": frame if gray_frame else cv2.cvtColor(frame, cv2.COLOR_BGR2GRAY),
    }
    expected = (np.atleast_3d(seen[colour]).astype(np.float32) - np.float32(mean)) * np.float32(scale)
    tensor, _ = Picture(spec, "float32")(frame)
    np.testing.assert_array_equal(tensor[0], expected.transpose(2, 0, 1) if layout == "NCHW" else expected)
    assert tensor.ctypes.data % 64 == 0


@pytest.mark.parametrize(
    "frame",
    [None, "x.jpg", np.zeros((4, 4, 3)), np.zeros((4, 4, 4), np.uint8), np.zeros((0, 4, 3), np.uint8)],
)
def test_what_is_no_frame_is_refused(frame: Any) -> None:
    spec = card({"decoder": "raw"}).input
    assert isinstance(spec, rt.card.ImageInput)
    with pytest.raises(rt.InputError, match="frame"):
        Picture(spec, "float32")(frame)


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
