"""Cards for a picture of 64 × 64, and outputs decoded by them."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np

import edgec.runtime as rt
from edgec.runtime.processing.decoders import decode
from edgec.runtime.processing.image import Placement

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


def boxes_of(found: list[rt.Detection]) -> list[tuple[str, float, list[float]]]:
    return [(d.label, round(d.score, 3), [d.box.left, d.box.top, d.box.right, d.box.bottom]) for d in found]
