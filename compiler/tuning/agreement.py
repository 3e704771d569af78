"""Candidates of one workload must compute the same: one that differs from the majority is wrong."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

TOLERANCE = 1e-3  # between candidates, relative to the largest value: orders of summation differ


def agreeing(outputs: Sequence[np.ndarray]) -> list[bool]:
    """Which candidates computed what most of them computed."""
    if not outputs:
        return []
    first = [_close(outputs[0], b) for b in outputs]
    if all(first):
        return first
    close = [[_close(a, b) for b in outputs] for a in outputs]
    votes = [sum(row) for row in close]
    return close[int(np.argmax(votes))]


def _close(a: np.ndarray, b: np.ndarray) -> bool:
    # A result rounded to fewer bits may fall on either side.
    tolerance = 2.0**-7 if str(a.dtype) == "bfloat16" else TOLERANCE
    a, b = (x.astype(np.float32) if str(x.dtype) == "bfloat16" else x for x in (a, b))
    scale = float(np.max(np.abs(a), initial=1e-6))
    return bool(np.all(np.isfinite(b)) and np.max(np.abs(a - b), initial=0.0) <= tolerance * scale)
