"""Decoders of detectors: from a model's outputs to boxes in the source frame.

All of them take the same steps: score all anchors, keep those at or above the threshold, decode only their boxes,
suppress non-maxima class by class, and map the result back to the frame's pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache

import numpy as np

from edgec.runtime import card as cards
from edgec.runtime.card import ModelCard
from edgec.runtime.errors import InputError
from edgec.runtime.execution.compiled_functions import Array
from edgec.runtime.processing.activations import activate
from edgec.runtime.processing.image import Placement
from edgec.runtime.processing.results import Box, Detection, Point

Outputs = Mapping[str, Array]
# Boxes considered for suppression, best first: bounds the work on crowded frames, as OpenCV and Ultralytics do.
CANDIDATES = 4000
# YuNet's outputs of each stride, and how many values of an anchor they hold.
YUNET_PARTS = {"cls": 1, "obj": 1, "bbox": 4, "kps": 10}


def suppress(boxes: Array, scores: Array, classes: Array | None, threshold: float, limit: int) -> Array:
    """Greedy non-maximum suppression.

    Args:
        boxes: corners `[n, 4]`.
        scores: `[n]`.
        classes: `[n]`; boxes of different classes do not suppress each other. None treats all boxes as one class.
        threshold: intersection over union above which the box with the lower score is dropped.
        limit: maximum number of boxes to keep.

    Returns:
        indices of the boxes kept, best first; equal scores in their original order.
    """
    order = np.argsort(-scores, kind="stable")[:CANDIDATES]
    corners = boxes[order].astype(np.float64)
    if classes is not None and len(corners):
        # Offset the classes so far that boxes of different classes cannot overlap.
        span = float(np.abs(corners).max()) * 2 + 1
        corners = corners + classes[order, None] * span
    sizes = np.maximum(corners[:, 2:] - corners[:, :2], 0.0)
    areas = sizes[:, 0] * sizes[:, 1]
    kept: list[int] = []
    left = np.arange(len(order))
    while len(left) and len(kept) < limit:
        best, rest = left[0], left[1:]
        kept.append(best)
        low = np.maximum(corners[best, :2], corners[rest, :2])
        inside = np.maximum(np.minimum(corners[best, 2:], corners[rest, 2:]) - low, 0.0)
        common = inside[:, 0] * inside[:, 1]
        union = areas[best] + areas[rest] - common
        left = rest[common <= threshold * union]
    result: Array = order[kept]
    return result


def single(outputs: Outputs, name: str | None) -> Array:
    """The output of this name, or the first one where the card names none."""
    if name is None:
        return next(iter(outputs.values()))
    return named(outputs, name)


def named(outputs: Outputs, name: str) -> Array:
    """The output of this name.

    Raises:
        InputError: the model has no such output.
    """
    try:
        return outputs[name]
    except KeyError:
        raise InputError(
            f"the model card names output {name!r}, but the model has {', '.join(outputs)}"
        ) from None


def _corners(centres: Array) -> Array:
    """Centre and size `[n, 4]` as corners."""
    half = centres[:, 2:4] / 2
    return np.concatenate([centres[:, :2] - half, centres[:, :2] + half], axis=1)


def finish(
    boxes: Array,
    scores: Array,
    classes: Array,
    card: ModelCard,
    place: Placement,
    points: Array | None = None,
) -> list[Detection]:
    """Map kept boxes (corners `[n, 4]` in input pixels) and their landmarks to the frame."""
    in_frame = place.boxes_to_frame(boxes).tolist()
    marks = None if points is None else place.to_frame(points).tolist()
    found = []
    for row, (class_id, score) in enumerate(zip(classes.tolist(), scores.tolist(), strict=True)):
        left, top, right, bottom = in_frame[row]
        if right <= left or bottom <= top:  # entirely in the letterbox's border
            continue
        landmarks = () if marks is None else tuple(Point(x, y, score) for x, y in marks[row])
        box = Box(left, top, right, bottom)
        found.append(Detection(box, card.label(class_id), class_id, score, landmarks))
    return found


def suppressed(
    boxes: Array,
    scores: Array,
    classes: Array,
    spec: cards.BoxOutput,
    card: ModelCard,
    place: Placement,
    points: Array | None = None,
) -> list[Detection]:
    """Suppress boxes above the threshold (corners in pixels of the input), and map the rest to the frame."""
    groups = classes if spec.class_wise else None
    kept = suppress(boxes, scores, groups, spec.nms_threshold, spec.max_detections)
    marks = None if points is None else points[kept]
    return finish(boxes[kept], scores[kept], classes[kept], card, place, marks)


@lru_cache(maxsize=32)
def grid(width: int, height: int, strides: tuple[int, ...]) -> tuple[Array, Array]:
    """The cells of a one-stage detector, stride by stride and row by row: cell corners `[n, 2]` (x, y)
    in cells, and the stride of each `[n, 1]`.
    """
    cells, sizes = [], []
    for stride in strides:
        rows, columns = -(-height // stride), -(-width // stride)
        y, x = np.mgrid[0:rows, 0:columns]
        cells.append(np.stack([x, y], axis=-1).reshape(-1, 2))
        sizes.append(np.full((rows * columns, 1), stride))
    return np.concatenate(cells).astype(np.float32), np.concatenate(sizes).astype(np.float32)


def _input_size(card: ModelCard) -> tuple[int, int]:
    if not isinstance(card.input, cards.ImageInput):
        raise InputError(f"decoder {card.output.decoder} needs an image as input")
    return card.input.width, card.input.height


def _best_of(scores: Array, threshold: float) -> tuple[Array, Array, Array]:
    """Of `[anchors, classes]`: the anchors whose best class reaches the threshold, that class, and its
    score.
    """
    classes = scores.argmax(axis=1)
    best = scores[np.arange(len(scores)), classes]
    kept = np.flatnonzero(best >= threshold)
    return kept, classes[kept], best[kept]


def _best_of_rows(rows: Array, threshold: float) -> tuple[Array, Array, Array]:
    """The same of `[anchors, 5 + classes]`, where scores are objectness times class."""
    sure = np.flatnonzero(rows[:, 4] >= threshold)  # a product of probabilities is never above its factor
    kept, classes, best = _best_of(rows[sure, 4:5] * rows[sure, 5:], threshold)
    return sure[kept], classes, best


def yolox(outputs: Outputs, spec: cards.Yolox, card: ModelCard, place: Placement) -> list[Detection]:
    """YOLOX (Ge et al., 2021): offsets from grid cells, sizes as logarithms of strides."""
    rows = single(outputs, spec.output)[0]
    count = len(rows)
    kept, classes, best = _best_of_rows(rows, spec.score_threshold)
    boxes = rows[kept, :4]
    if not spec.decoded:
        cells, strides = grid(*_input_size(card), spec.strides)
        if len(cells) != count:
            raise InputError(
                f"strides {list(spec.strides)} give {len(cells)} anchors, but the model has {count}"
            )
        boxes = np.concatenate([boxes[:, :2] + cells[kept], np.exp(boxes[:, 2:])], axis=1) * strides[kept]
    return suppressed(_corners(boxes), best, classes, spec, card, place)


def yolov5(outputs: Outputs, spec: cards.Yolov5, card: ModelCard, place: Placement) -> list[Detection]:
    """YOLOv5 and v7: boxes decoded in the graph, objectness times class."""
    rows = single(outputs, spec.output)[0]
    kept, classes, best = _best_of_rows(rows, spec.score_threshold)
    boxes = rows[kept, :4]
    boxes = boxes * np.tile(np.array(_input_size(card), np.float32), 2) if spec.normalised else boxes
    return suppressed(_corners(boxes), best, classes, spec, card, place)


def yolov8(outputs: Outputs, spec: cards.Yolov8, card: ModelCard, place: Placement) -> list[Detection]:
    """YOLOv8 to v11: `[4 + classes, anchors]`, no objectness."""
    columns = single(outputs, spec.output)[0]
    best = columns[4:].max(axis=0)
    kept = np.flatnonzero(best >= spec.score_threshold)
    classes = columns[4:, kept].argmax(axis=0)
    boxes = columns[:4, kept].T
    boxes = boxes * np.tile(np.array(_input_size(card), np.float32), 2) if spec.normalised else boxes
    return suppressed(_corners(boxes), best[kept], classes, spec, card, place)


@lru_cache(maxsize=16)
def ssd_anchors(layers: tuple[cards.AnchorLayer, ...]) -> Array:
    """All anchors of an SSD `[n, 4]`: centre and size (x, y, w, h) as shares of the picture.

    Layer by layer, row by row, column by column, then the layer's sizes: the order of TensorFlow's and
    torchvision's models.
    """
    parts = []
    for layer in layers:
        y, x = np.mgrid[0 : layer.rows, 0 : layer.columns]
        centres = np.stack([(x + 0.5) / layer.columns, (y + 0.5) / layer.rows], axis=-1).reshape(-1, 1, 2)
        sizes = np.array(layer.sizes)[None]
        shape = (centres.shape[0], sizes.shape[1], 2)
        pairs = np.concatenate([np.broadcast_to(centres, shape), np.broadcast_to(sizes, shape)], axis=-1)
        parts.append(pairs.reshape(-1, 4))
    return np.concatenate(parts).astype(np.float32)


def constants_of(card: ModelCard) -> Array | None:
    """What a compiled decoder takes besides the outputs: cell and stride `[n, 3]`, or an SSD's anchors `[n, 4]`."""
    spec = card.output
    if isinstance(spec, cards.Ssd):
        return ssd_anchors(spec.anchors) if spec.coding == "centre" else None
    if isinstance(spec, cards.Yunet) or (isinstance(spec, cards.Yolox) and not spec.decoded):
        return np.concatenate(grid(*_input_size(card), spec.strides), axis=1)
    return None


def ssd(outputs: Outputs, spec: cards.Ssd, card: ModelCard, place: Placement) -> list[Detection]:
    """SSD (Liu et al., 2016): offsets from anchors, scaled by variances."""
    scores = activate(named(outputs, spec.scores)[0], spec.activation)
    if spec.background is not None:
        scores = np.delete(scores, spec.background, axis=1)
    kept, classes, best = _best_of(scores, spec.score_threshold)
    codes = named(outputs, spec.boxes)[0].reshape(-1, 4)[kept]
    if spec.order == "yx":
        codes = codes[:, [1, 0, 3, 2]]
    if spec.coding == "centre":
        anchors = ssd_anchors(spec.anchors)
        if len(anchors) != len(scores):
            raise InputError(f"the card has {len(anchors)} anchors, but the model {len(scores)}")
        anchors, scale = anchors[kept], np.array(spec.variances, np.float32)
        centres = anchors[:, :2] + codes[:, :2] * scale[:2] * anchors[:, 2:]
        sizes = anchors[:, 2:] * np.exp(codes[:, 2:] * scale[2:])
        codes = _corners(np.concatenate([centres, sizes], axis=1))
    boxes = codes * np.tile(np.array(_input_size(card), np.float32), 2)
    return suppressed(boxes, best, classes, spec, card, place)


def ultraface(outputs: Outputs, spec: cards.Ultraface, card: ModelCard, place: Placement) -> list[Detection]:
    """UltraFace: the graph decodes corners from 0 to 1; class 1 is the face."""
    scores = named(outputs, spec.scores)[0, :, 1]
    kept = np.flatnonzero(scores >= spec.score_threshold)
    boxes = named(outputs, spec.boxes)[0][kept] * np.tile(np.array(_input_size(card), np.float32), 2)
    return suppressed(boxes, scores[kept], np.zeros(len(kept), np.int64), spec, card, place)


def yunet(outputs: Outputs, spec: cards.Yunet, card: ModelCard, place: Placement) -> list[Detection]:
    """YuNet (Wu et al., 2023): one anchor a cell; score is the root of class times objectness."""
    width, height = _input_size(card)
    cells, strides = grid(width, height, spec.strides)

    def every(kind: str) -> Array:
        size = YUNET_PARTS[kind]
        return np.concatenate([named(outputs, f"{kind}_{one}").reshape(-1, size) for one in spec.strides])

    scores = np.sqrt(np.clip(every("cls"), 0, 1) * np.clip(every("obj"), 0, 1))[:, 0]
    kept = np.flatnonzero(scores >= spec.score_threshold)
    codes, cells, strides = every("bbox")[kept], cells[kept], strides[kept]
    boxes = np.concatenate([(cells + codes[:, :2]) * strides, np.exp(codes[:, 2:]) * strides], axis=1)
    marks = (every("kps")[kept].reshape(-1, 5, 2) + cells[:, None]) * strides[:, None]
    classes = np.zeros(len(kept), np.int64)
    return suppressed(_corners(boxes), scores[kept], classes, spec, card, place, marks)


BoxDecoder = Callable[..., list[Detection]]

BOX_DECODERS: dict[str, BoxDecoder] = {
    "yolox": yolox,
    "yolov5": yolov5,
    "yolov8": yolov8,
    "ssd": ssd,
    "ultraface": ultraface,
    "yunet": yunet,
}
