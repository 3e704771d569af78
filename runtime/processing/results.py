"""Typed results of `predict`, each with `to_json()`.

Boxes and points are in pixels of the source frame, whatever the size of the model's input. Scores are from 0 to 1,
except an anomaly's. `class_id` counts from 0; `label` is the card's name for it, or the number.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True, slots=True)
class Box:
    """Corners in pixels of the source frame; `right` and `bottom` are exclusive."""

    left: float
    top: float
    right: float
    bottom: float

    @property
    def width(self) -> float:
        """In pixels."""
        return self.right - self.left

    @property
    def height(self) -> float:
        """In pixels."""
        return self.bottom - self.top


@dataclass(frozen=True, slots=True)
class Point:
    """A keypoint in pixels of the source frame; `score` is the model's confidence (0 to 1)."""

    x: float
    y: float
    score: float
    name: str = ""


@dataclass(frozen=True, slots=True)
class Detection:
    """An object with a bounding box; `points` are its landmarks, if the model predicts any."""

    box: Box
    label: str
    class_id: int
    score: float
    points: tuple[Point, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """As JSON-serialisable values."""
        content = {"type": "detection", "label": self.label, "class_id": self.class_id, "score": self.score}
        content["box"] = asdict(self.box)
        if self.points:
            content["points"] = [asdict(point) for point in self.points]
        return content


@dataclass(frozen=True, slots=True)
class Classification:
    """A class of the whole input; results are ordered by score, best first."""

    label: str
    class_id: int
    score: float

    def to_json(self) -> dict[str, Any]:
        """As JSON-serialisable values."""
        return {"type": "classification"} | asdict(self)


@dataclass(frozen=True, slots=True)
class Keypoints:
    """The keypoints of one body (hand, face, …); `score` is the mean over the points at or above the threshold."""

    points: tuple[Point, ...]
    score: float
    skeleton: tuple[tuple[int, int], ...] = ()
    label: str = "keypoints"
    class_id: int = 0

    def to_json(self) -> dict[str, Any]:
        """As JSON-serialisable values."""
        return {"type": "keypoints", "score": self.score, "points": [asdict(point) for point in self.points]}


@dataclass(frozen=True, slots=True)
class Segmentation:
    """A class for every pixel: `mask` is `[height, width]` uint8 of the source frame's size.

    `shares` are the fractions (0 to 1) of the frame that each class present covers, largest first.
    """

    mask: npt.NDArray[np.uint8]
    labels: dict[int, str]
    shares: dict[int, float]
    palette: npt.NDArray[np.uint8]
    background: int | None = None

    def coloured(self) -> npt.NDArray[np.uint8]:
        """The mask as an image: `[height, width, 3]` uint8, BGR."""
        return self.palette[self.mask]

    def to_json(self) -> dict[str, Any]:
        """As JSON-serialisable values, without the mask's pixels."""
        classes = [
            {"class_id": number, "label": self.labels[number], "share": share}
            for number, share in self.shares.items()
        ]
        height, width = self.mask.shape
        return {"type": "segmentation", "width": width, "height": height, "classes": classes}


@dataclass(frozen=True, slots=True)
class Sound:
    """A word or a sound in the window from `start_s` to `end_s` (seconds from the first sample)."""

    label: str
    class_id: int
    score: float
    start_s: float
    end_s: float

    def to_json(self) -> dict[str, Any]:
        """As JSON-serialisable values."""
        return {"type": "sound"} | asdict(self)


@dataclass(frozen=True, slots=True)
class Anomaly:
    """An anomaly score; `anomalous` when it reaches the card's threshold."""

    score: float
    anomalous: bool
    start_s: float | None = None
    end_s: float | None = None

    def to_json(self) -> dict[str, Any]:
        """As JSON-serialisable values."""
        return {"type": "anomaly"} | {key: value for key, value in asdict(self).items() if value is not None}


@dataclass(frozen=True, slots=True)
class Embedding:
    """A vector (float32) that represents the input."""

    vector: npt.NDArray[np.float32]

    def to_json(self) -> dict[str, Any]:
        """As JSON-serialisable values."""
        return {"type": "embedding", "vector": self.vector.tolist()}


@dataclass(frozen=True, slots=True)
class Text:
    """Recognised text, with the mean of its characters' scores (0 for an empty text)."""

    text: str
    score: float

    def to_json(self) -> dict[str, Any]:
        """As JSON-serialisable values."""
        return {"type": "text"} | asdict(self)


@dataclass(frozen=True, slots=True)
class Raw:
    """The model's outputs by the source model's names, unprocessed."""

    outputs: dict[str, npt.NDArray[Any]]

    def to_json(self) -> dict[str, Any]:
        """As JSON-serialisable values: every number of every output."""
        return {"type": "raw", "outputs": {name: array.tolist() for name, array in self.outputs.items()}}


Result = Detection | Classification | Keypoints | Segmentation | Sound | Anomaly | Embedding | Text | Raw
