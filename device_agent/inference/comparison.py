"""Comparison with a candidate model on a share of the frames: in its place (A/B) or alongside (shadow)."""

from __future__ import annotations

from typing import Any

from edgec.device_agent.inference.findings import Findings
from edgec.device_agent.inference.tracker import Seen, overlap_of

_SAME = 0.5


class Comparison:
    """Measures the agreement of two models."""

    def __init__(self, share: float) -> None:
        self._share = share
        self._owed = 0.0
        self.frames = 0
        self.agreement_sum = 0.0
        self.disagreements = 0

    def due(self) -> bool:
        """Return whether this frame belongs to the share; evenly spread, not random."""
        self._owed += self._share
        if self._owed >= 1.0 - 1e-9:
            self._owed -= 1.0
            return True
        return False

    def add(self, left: Findings, right: Findings) -> float:
        """Count one frame that both processed; returns the agreement, 0 to 1."""
        agreed = agreement(left, right)
        self.frames += 1
        self.agreement_sum += agreed
        self.disagreements += agreed < 1.0
        return agreed

    def report(self) -> dict[str, Any]:
        """Return the figures."""
        mean = self.agreement_sum / self.frames if self.frames else None
        return {
            "frames": self.frames,
            "disagreements": self.disagreements,
            "agreement": None if mean is None else round(mean, 4),
        }


def agreement(left: Findings, right: Findings) -> float:
    """Return the share of detections that both models made: same label, and boxes that overlap by half."""
    total = max(len(left.boxes), len(right.boxes)) + max(len(left.labels), len(right.labels))
    if total == 0:
        return 1.0
    both = len({one.label for one in left.labels} & {one.label for one in right.labels})
    return (both + _pairs(left.boxes, right.boxes)) / total


def _pairs(left: list[Seen], right: list[Seen]) -> int:
    found = sorted(
        (-overlap_of(one.box, other.box), row, column)
        for row, one in enumerate(left)
        for column, other in enumerate(right)
        if one.label == other.label and one.box and other.box
    )
    rows: set[int] = set()
    columns: set[int] = set()
    for negative, row, column in found:
        if -negative >= _SAME and row not in rows and column not in columns:
            rows.add(row)
            columns.add(column)
    return len(rows)
