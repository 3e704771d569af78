"""Accuracy of detectors: matching by overlap, average precision, precision and recall.

Average precision is the area under the precision envelope over all recalls (the PASCAL VOC definition since 2010). A
detection is correct when it overlaps a ground-truth box of its class that no better detection has matched.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgec.runtime.processing.results import Detection, Result

Floats = NDArray[np.float32]
Detections = Floats
"""`[detections, 6]`: class, x0, y0, x1, y1, score."""


def overlaps(a: Floats, b: Floats) -> Floats:
    """Intersection over union of boxes `[n, 4]` and `[m, 4]` (corners): `[n, m]`."""
    low = np.maximum(a[:, None, :2], b[None, :, :2])
    high = np.minimum(a[:, None, 2:], b[None, :, 2:])
    both = np.prod(np.maximum(high - low, 0), axis=2)
    areas = [np.prod(np.maximum(x[:, 2:] - x[:, :2], 0), axis=1) for x in (a, b)]
    result: Floats = both / np.maximum(areas[0][:, None] + areas[1][None] - both, 1e-9)
    return result


def rows(results: Sequence[Result]) -> Detections:
    """Convert typed detections to rows; other results are skipped."""
    found = [
        (r.class_id, r.box.left, r.box.top, r.box.right, r.box.bottom, r.score)
        for r in results
        if isinstance(r, Detection)
    ]
    return np.array(found, np.float32).reshape(-1, 6)


@dataclass(frozen=True)
class Accuracy:
    """Mean average precision at an overlap of 0.5, and precision and recall at `threshold`."""

    map50: float
    precision: float
    recall: float
    threshold: float
    by_class: tuple[float, ...]


def accuracy(
    found: Sequence[Detections], truths: Sequence[Floats], classes: int, threshold: float
) -> Accuracy:
    """Measure detections per picture (at a low score threshold) against ground truth `[n, 5]`."""
    by_class, right_above, above, wanted = [], 0, 0, 0
    for kind in range(classes):
        scores, right = matched(found, truths, kind)
        total = sum(int((t[:, 0] == kind).sum()) for t in truths)
        by_class.append(average_precision(scores, right, total))
        right_above += int(right[scores >= threshold].sum())
        above += int((scores >= threshold).sum())
        wanted += total
    return Accuracy(
        float(np.mean(by_class)), right_above / max(above, 1), right_above / max(wanted, 1), threshold,
        tuple(by_class),
    )  # fmt: skip


def matched(
    found: Sequence[Detections], truths: Sequence[Floats], kind: int
) -> tuple[Floats, NDArray[np.bool_]]:
    """Scores of the detections of a class, and which of them are correct."""
    scores: list[float] = []
    right: list[bool] = []
    for detections, truth in zip(found, truths, strict=True):
        mine = detections[detections[:, 0] == kind]
        theirs = truth[truth[:, 0] == kind]
        free = np.ones(len(theirs), bool)
        for row in mine[np.argsort(-mine[:, 5], kind="stable")]:
            overlap = overlaps(row[None, 1:5], theirs[:, 1:5])[0] * free if len(theirs) else np.zeros(1)
            best = int(overlap.argmax())
            hit = bool(overlap[best] >= 0.5)
            if hit:
                free[best] = False
            scores.append(float(row[5]))
            right.append(hit)
    return np.array(scores, np.float32), np.array(right, bool)


def average_precision(scores: Floats, right: NDArray[np.bool_], total: int) -> float:
    """The area under the precision envelope, for `total` objects."""
    if total == 0 or len(scores) == 0:
        return 0.0
    hits = np.cumsum(right[np.argsort(-scores, kind="stable")])
    precision = hits / np.arange(1, len(hits) + 1)
    recall = hits / total
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    return float(np.sum(np.diff(recall, prepend=0.0) * envelope))
