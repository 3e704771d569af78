"""Random weights with identical bytes on every machine and under every version of numpy.

NumPy guarantees a stable raw stream of a bit generator, but not stable distributions, so the conversion to floating
point is done here, with exact operations only.
"""

from __future__ import annotations

import hashlib
import math

import numpy as np
from numpy.typing import NDArray


def uniform(key: str, shape: tuple[int, ...], low: float, high: float) -> NDArray[np.float32]:
    """Uniform float32 values in `[low, high)`, determined by `key` alone.

    The values are on a grid of 2**-24 of the interval, in the order in which PCG64 seeded from SHA-256 of
    `key` yields 32-bit halves.
    """
    count = math.prod(shape)
    seed = int.from_bytes(hashlib.sha256(key.encode()).digest()[:16], "little")
    raw = np.random.PCG64(seed).random_raw((count + 1) // 2).astype("<u8").view("<u4")[:count]
    unit = (raw >> np.uint32(8)).astype(np.float32) * np.float32(2.0**-24)
    values: NDArray[np.float32] = unit * np.float32(high - low) + np.float32(low)
    return values.reshape(shape)


def symmetric(key: str, shape: tuple[int, ...], std: float) -> NDArray[np.float32]:
    """Zero-mean uniform float32 values with standard deviation `std`."""
    bound = std * math.sqrt(3.0)
    return uniform(key, shape, -bound, bound)
