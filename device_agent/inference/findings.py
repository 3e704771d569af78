"""A model's results in the form that trackers and rules take; values that are not finite are refused."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from edgec.device_agent.inference.tracker import Seen
from edgec.runtime.errors import BrokenOutput
from edgec.runtime.processing.results import Anomaly, Classification, Segmentation


@dataclass(slots=True)
class Findings:
    """One frame's results: detections with boxes, and labels without."""

    boxes: list[Seen] = field(default_factory=list)
    labels: list[Seen] = field(default_factory=list)
    kind: str = "detection"
    """The events' kind: detection, classification, keypoints, segment, sound or anomaly."""

    @property
    def scores(self) -> list[float]:
        """Every score of the frame."""
        return [one.score for one in (*self.boxes, *self.labels)]


def findings_of(results: object, kind: str) -> Findings:
    """Convert the runtime's typed results.

    Raises:
        BrokenOutput: a score or box is not finite.
    """
    found = Findings(kind=kind)
    for one in results if isinstance(results, Iterable) and not isinstance(results, dict) else [results]:
        if isinstance(one, Segmentation):
            found.labels += [
                Seen(one.labels[number], number, _probability(share), None)
                for number, share in one.shares.items()
                if number != one.background
            ]
            continue
        score = getattr(one, "score", None)
        if score is None or (isinstance(one, Anomaly) and not one.anomalous):
            continue  # embeddings and raw tensors are not events by themselves
        if isinstance(one, Classification) and found.labels:
            continue  # only the best class: the others are alternatives to it
        box = getattr(one, "box", None)
        seen = Seen(
            label=str(getattr(one, "label", "") or kind),
            class_id=int(getattr(one, "class_id", -1)),
            score=_probability(score),
            box=None if box is None else _corners(box),
        )
        (found.labels if box is None else found.boxes).append(seen)
    return found


def _probability(score: Any) -> float:  # noqa: ANN401 - numpy or Python number
    value = float(score)
    if not math.isfinite(value):
        raise BrokenOutput(f"the model returned a score of {value}")
    return min(1.0, max(0.0, value))


def _corners(box: Any) -> tuple[float, float, float, float]:  # noqa: ANN401 - the runtime's Box
    values = tuple(float(value) for value in (box.left, box.top, box.right, box.bottom))
    if not all(map(math.isfinite, values)):
        raise BrokenOutput(f"the model returned a box of {values}")
    return values[0], values[1], values[2], values[3]
