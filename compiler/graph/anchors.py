"""Annotations of the kernels that a template may claim.

A PrimFunc that computes more than a map (a convolution, a product, an attention) carries its specification as JSON
under the attribute `ANCHOR`, and so does the block in it that computes the anchor's result. Fusion attaches
element-wise operators to such anchors without reading the specification; the back end that wrote it reads it again.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

ANCHOR = "edgec"
MOVES = (
    "edgec.moves"  # attribute of an anchor that only moves elements: others take operators behind both first
)
SCHEDULE = "edgec.schedule"  # attribute of a finished kernel: how its template made it, for reports
WHOLE = "edgec.whole"  # attribute of an anchor of several steps, which takes no epilogue


def encode(operator: str, fields: Mapping[str, Any]) -> str:
    """An anchor's specification as text: equal specifications are equal texts, as cache keys need them."""
    return json.dumps({"op": operator, **fields}, sort_keys=True, separators=(",", ":"))


def decode(text: str) -> tuple[str, dict[str, Any]]:
    """The operator and the fields that `encode` was given; lists are tuples, at any depth."""
    fields = {name: _frozen(value) for name, value in json.loads(text).items()}
    return fields.pop("op"), fields


def _frozen(value: Any) -> Any:  # noqa: ANN401 - any JSON value
    if isinstance(value, list):
        return tuple(_frozen(inner) for inner in value)
    if isinstance(value, dict):
        return {name: _frozen(inner) for name, inner in value.items()}
    return value
