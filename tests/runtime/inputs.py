"""Inputs of the small model in `conftest.py`, and the type of its reference."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

Reference = Callable[[Any], Any]


def rows(seed: int, count: int = 1) -> Any:
    """Random rows `[count, 32]`, float32."""
    return np.random.default_rng(seed).standard_normal((count, 32)).astype("float32")
