"""How well the predictions for a picture agree with what it shows, by the rule that devices compare models with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

SAME = 0.5
"""Boxes that overlap by this share (intersection over union) are of the same thing."""
Found = Mapping[str, Any]


def agreement(predictions: Sequence[Found], truth: Sequence[Found]) -> float:
    """The share of what was predicted and what is there that belongs together: same label, boxes that overlap."""
    mine, theirs = ([one for one in side if one.get("box")] for side in (predictions, truth))
    named, right = ({one["label"] for one in side if not one.get("box")} for side in (predictions, truth))
    total = max(len(mine), len(theirs)) + max(len(named), len(right))
    return (_pairs(mine, theirs) + len(named & right)) / total if total else 1.0


def _pairs(left: Sequence[Found], right: Sequence[Found]) -> int:
    overlaps = sorted(
        (
            (-overlap(one["box"], other["box"]), row, column)
            for row, one in enumerate(left)
            for column, other in enumerate(right)
            if one["label"] == other["label"]
        ),
    )
    rows: set[int] = set()
    columns: set[int] = set()
    for negative, row, column in overlaps:
        if -negative >= SAME and row not in rows and column not in columns:
            rows.add(row)
            columns.add(column)
    return len(rows)


def overlap(left: Sequence[float], right: Sequence[float]) -> float:
    """Intersection over union of two boxes (left, top, right, bottom)."""
    wide = min(left[2], right[2]) - max(left[0], right[0])
    high = min(left[3], right[3]) - max(left[1], right[1])
    common = max(wide, 0.0) * max(high, 0.0)
    areas = sum((box[2] - box[0]) * (box[3] - box[1]) for box in (left, right))
    return common / (areas - common) if areas > common else 0.0
