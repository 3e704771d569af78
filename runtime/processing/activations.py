"""Activations of a model's outputs, where the graph does not contain them."""

from __future__ import annotations

import numpy as np

from edgec.runtime.execution.compiled_functions import Array


def activate(values: Array, kind: str, axis: int = -1) -> Array:
    """Apply `none`, `softmax` (along `axis`) or `sigmoid`; none of them overflows for large inputs."""
    if kind == "none":
        return values
    if kind == "sigmoid":
        # exp of a negative number only: 1 / (1 + e^-x) for positive x, e^x / (1 + e^x) for negative.
        small = np.exp(-np.abs(values))
        return np.where(values >= 0, 1.0, small) / (1.0 + small)
    shifted = np.exp(values - values.max(axis=axis, keepdims=True))
    result: Array = shifted / shifted.sum(axis=axis, keepdims=True)
    return result
