"""Draw results onto a frame."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt

from edgec.runtime.processing.decoders import default_palette
from edgec.runtime.processing.results import (
    Anomaly,
    Classification,
    Detection,
    Keypoints,
    Point,
    Result,
    Segmentation,
    Sound,
)

Frame = npt.NDArray[np.uint8]
_PALETTE = default_palette()


def _colour(class_id: int) -> tuple[int, int, int]:
    blue, green, red = (int(value) for value in _PALETTE[1 + class_id % 255])
    return blue, green, red


class _Canvas:
    """A copy of the frame to draw on, with line widths and font sizes that suit its size."""

    def __init__(self, frame: Frame) -> None:
        import cv2

        self.cv2: Any = cv2
        self.picture: Any = cv2.cvtColor(frame, cv2.COLOR_GRAY2BGR) if frame.ndim == 2 else frame.copy()
        self.unit = max(1, round(min(self.picture.shape[:2]) / 320))
        self.scale = 0.45 * self.unit
        self.line = 0

    def text(self, words: str, x: float, y: float, colour: tuple[int, int, int]) -> None:
        """Write text on a coloured background, its lower left corner at (x, y), kept inside the picture."""
        font = self.cv2.FONT_HERSHEY_SIMPLEX
        (width, height), below = self.cv2.getTextSize(words, font, self.scale, self.unit)
        left = int(min(max(x, 0), max(0, self.picture.shape[1] - width)))
        base = int(min(max(y, height + below), self.picture.shape[0] - below))
        self.cv2.rectangle(
            self.picture, (left, base - height - below), (left + width, base + below), colour, -1
        )
        ink = (0, 0, 0) if sum(colour) > 380 else (255, 255, 255)
        self.cv2.putText(
            self.picture, words, (left, base), font, self.scale, ink, self.unit, self.cv2.LINE_AA
        )

    def caption(self, words: str, colour: tuple[int, int, int]) -> None:
        """Write a line of text in the upper left corner, below the previous one."""
        self.line += 1
        self.text(words, 4 * self.unit, 22 * self.unit * self.line, colour)

    def detection(self, one: Detection) -> None:
        box, colour = one.box, _colour(one.class_id)
        first, second = (round(box.left), round(box.top)), (round(box.right), round(box.bottom))
        self.cv2.rectangle(self.picture, first, second, colour, 2 * self.unit)
        self.text(f"{one.label} {one.score:.2f}", box.left, box.top, colour)
        self.points(one.points, (), 0.0)

    def points(self, points: tuple[Point, ...], skeleton: tuple[tuple[int, int], ...], least: float) -> None:
        for first, second in skeleton:
            if max(first, second) < len(points) and min(points[first].score, points[second].score) >= least:
                ends = [(round(points[n].x), round(points[n].y)) for n in (first, second)]
                self.cv2.line(self.picture, *ends, (0, 220, 220), self.unit, self.cv2.LINE_AA)
        for point in points:
            if point.score >= least:
                centre = (round(point.x), round(point.y))
                self.cv2.circle(self.picture, centre, 2 * self.unit, (0, 0, 255), -1, self.cv2.LINE_AA)

    def segmentation(self, one: Segmentation) -> None:
        shown = np.ones_like(one.mask, bool) if one.background is None else one.mask != one.background
        mixed = self.cv2.addWeighted(self.picture, 0.45, one.coloured(), 0.55, 0.0)
        self.picture[shown] = mixed[shown]
        for number, share in one.shares.items():
            if number != one.background:
                colour = tuple(int(value) for value in one.palette[number])
                self.caption(f"{one.labels[number]} {share:.0%}", (colour[0], colour[1], colour[2]))


def draw(frame: Frame, results: Iterable[Result]) -> Frame:
    """Draw results onto a copy of the frame: boxes, points, masks, and captions for the rest.

    Args:
        frame: `[height, width, 3]` BGR or `[height, width]` gray, uint8.
        results: what `predict` returned for it.

    Returns:
        `[height, width, 3]` BGR, uint8.
    """
    canvas = _Canvas(frame)
    for one in results:
        if isinstance(one, Detection):
            canvas.detection(one)
        elif isinstance(one, Keypoints):
            canvas.points(one.points, one.skeleton, 0.3)
        elif isinstance(one, Segmentation):
            canvas.segmentation(one)
        elif isinstance(one, Classification | Sound):
            canvas.caption(f"{one.label} {one.score:.2f}", _colour(one.class_id))
        elif isinstance(one, Anomaly):
            colour = (0, 0, 255) if one.anomalous else (80, 160, 80)
            canvas.caption(f"{'anomaly' if one.anomalous else 'normal'} {one.score:.3g}", colour)
    return np.asarray(canvas.picture, np.uint8)
