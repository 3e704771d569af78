"""Ranges of activations from what calibration data show: four ways, all from one pass over the data.

- `minmax`: everything that was seen (Jacob et al., "Quantization and Training of Neural Networks for Efficient
  Integer-Arithmetic-Only Inference", CVPR 2018).
- `percentile`: all but a ten-thousandth of the values (Wu et al., "Integer Quantization for Deep Learning Inference:
  Principles and Empirical Evaluation", 2020, section 3.2).
- `entropy`: the clipping at which the distribution of the quantised values has the smallest Kullback-Leibler divergence
  from that of the values (Migacz, "8-bit Inference with TensorRT", GTC 2017).
- `mse`: the range at which rounding and clipping together have the smallest mean squared error (Nagel et al., "A White
  Paper on Neural Network Quantization", 2021, section 3.1).

All but the first work on a histogram whose bins double in width whenever a value lies outside; it takes 128 KiB a
tensor, whatever the amount of data.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

BINS = 16384  # half of them below zero
LEVELS = 256
PERCENTILE = 99.99
CANDIDATES = 128
_SMALLEST = 1e-30

Floats = npt.NDArray[np.float64]
Range = tuple[float, float]


class Histogram:
    """Counts of values in bins of equal width around zero, and the smallest and the largest value."""

    def __init__(self) -> None:
        self.low, self.high = math.inf, -math.inf
        self.counts = np.zeros(BINS, np.int64)
        self.width = 0.0

    def add(self, values: npt.NDArray[Any]) -> None:
        """Count the elements of an array; those that are not finite are left out."""
        flat = values.reshape(-1).astype(np.float32, copy=False)
        flat = flat[np.isfinite(flat)]
        if not flat.size:
            return
        low, high = float(flat.min()), float(flat.max())
        self.low, self.high = min(self.low, low), max(self.high, high)
        largest = max(-low, high, _SMALLEST)
        if not self.width:
            self.width = 2.0 ** math.ceil(math.log2(largest * 2 / BINS))
        while largest >= self.width * BINS / 2:
            self._double()
        places = np.floor(flat / np.float64(self.width)).astype(np.int64) + BINS // 2
        self.counts += np.bincount(places, minlength=BINS)

    def _double(self) -> None:
        """Join pairs of bins: borders are multiples of the width on both sides of zero, so no count moves."""
        pairs = self.counts.reshape(-1, 2).sum(axis=1)
        self.counts = np.zeros(BINS, np.int64)
        self.counts[BINS // 4 : BINS // 4 + BINS // 2] = pairs
        self.width *= 2

    @property
    def empty(self) -> bool:
        """Whether no value was seen."""
        return self.low > self.high

    @property
    def centres(self) -> Floats:
        """The middle of each bin."""
        return np.asarray((np.arange(BINS) - BINS // 2 + 0.5) * self.width, np.float64)


@dataclass(frozen=True)
class Grid:
    """Real numbers as 8-bit integers: `real = (integer - zero) * scale`.

    Attributes:
        scale: the step.
        zero: the integer of 0.
        signed: int8 rather than uint8.
    """

    scale: np.float32
    zero: int
    signed: bool

    @property
    def dtype(self) -> type[np.int8] | type[np.uint8]:
        """The integers' type."""
        return np.int8 if self.signed else np.uint8

    def quantised(self, values: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """The integers of real numbers, as QuantizeLinear computes them: to the nearest, ties to even, saturated."""
        limits = np.iinfo(self.dtype)
        steps = np.rint(values.astype(np.float32) / self.scale) + self.zero
        return np.asarray(np.clip(steps, limits.min, limits.max).astype(self.dtype))

    def rounded(self, values: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        """The real numbers that stand for `values` on the grid."""
        return (self.quantised(values).astype(np.float32) - np.float32(self.zero)) * self.scale


def grid_of(low: float, high: float, *, signed: bool) -> Grid:
    """The grid of 256 steps over a range that is widened to hold 0, which is exact."""
    low, high = min(low, 0.0), max(high, 0.0)
    least = -128 if signed else 0
    scale = np.float32((high - low) / (LEVELS - 1))
    if not scale > np.finfo(np.float32).tiny:
        return Grid(np.float32(1.0), least if low == 0.0 else least + LEVELS // 2, signed)
    zero = int(np.clip(np.rint(least - low / float(scale)), least, least + LEVELS - 1))
    return Grid(scale, zero, signed)


def minmax(seen: Histogram) -> Range:
    """Everything that was seen."""
    return seen.low, seen.high


def percentile(seen: Histogram, share: float = PERCENTILE) -> Range:
    """The range that holds `share` percent of the values, as much left out above as below."""
    left = np.cumsum(seen.counts)
    outside = (100.0 - share) / 200.0 * left[-1]
    low = int(np.searchsorted(left, outside, side="right"))
    high = int(np.searchsorted(left, left[-1] - outside, side="left"))
    edges = (np.arange(BINS + 1) - BINS // 2) * seen.width
    return max(float(edges[low]), seen.low), min(float(edges[high + 1]), seen.high)


def entropy(seen: Histogram) -> Range:
    """The clipping of the magnitudes that loses the least information."""
    half = BINS // 2
    magnitudes = (seen.counts[half:] + seen.counts[:half][::-1]).astype(np.float64)
    magnitudes[0] = magnitudes[1]  # zeros, exact on any grid, are no distribution to approximate
    last = int(np.flatnonzero(magnitudes)[-1]) + 1 if magnitudes.any() else 0
    levels = LEVELS if seen.low >= 0 or seen.high <= 0 else LEVELS // 2
    if last <= 2 * levels:
        return minmax(seen)
    ends = np.unique(np.linspace(levels, last, CANDIDATES).round().astype(int))
    lost = [_divergence(magnitudes[:last], int(end), levels) for end in ends]
    limit = float(ends[int(np.argmin(lost))] * seen.width)
    return max(seen.low, -limit), min(seen.high, limit)


def _divergence(counts: Floats, end: int, levels: int) -> float:
    """The Kullback-Leibler divergence of `counts` clipped to `end` bins from their quantisation to `levels` steps."""
    clipped = counts[:end].copy()
    clipped[-1] += counts[end:].sum()
    place = np.minimum(np.arange(end) * levels // end, levels - 1)
    filled = counts[:end] > 0
    total = np.bincount(place, counts[:end], levels)
    bins = np.bincount(place[filled], minlength=levels)
    spread = np.where(filled, total[place] / np.maximum(bins[place], 1), 0.0)
    p, q = clipped / clipped.sum(), spread / max(spread.sum(), _SMALLEST)
    used = p > 0
    return float(np.sum(p[used] * np.log(p[used] / np.maximum(q[used], 1e-12))))


def mse(seen: Histogram) -> Range:
    """The range with the smallest mean squared error: both ends drawn in together, and then each alone."""
    used = np.flatnonzero(seen.counts)
    values, weights = seen.centres[used], seen.counts[used].astype(np.float64)
    shrunk = np.linspace(1.0, 0.2, CANDIDATES)  # the widest of equals

    def error(low: float, high: float) -> float:
        low, high = min(low, 0.0), max(high, 0.0)
        step = (high - low) / (LEVELS - 1)
        if step <= 0:
            return math.inf
        rounded = (
            np.clip(np.rint(values / step), np.rint(low / step), np.rint(low / step) + LEVELS - 1) * step
        )
        return float(np.dot(weights, (values - rounded) ** 2))

    both = min(shrunk, key=lambda k: error(seen.low * k, seen.high * k))
    low, high = float(seen.low * both), float(seen.high * both)
    if seen.low < 0 < seen.high:
        low = float(seen.low * min(shrunk, key=lambda k: error(seen.low * k, high)))
        high = float(seen.high * min(shrunk, key=lambda k: error(low, seen.high * k)))
    return low, high


CALIBRATORS: dict[str, Callable[[Histogram], Range]] = {
    "minmax": minmax,
    "percentile": percentile,
    "entropy": entropy,
    "mse": mse,
}


def range_of(seen: Histogram, calibrator: str) -> Range:
    """The range that a calibrator finds; 0 to 0 where nothing was seen."""
    if seen.empty or seen.low == seen.high:
        return (0.0, 0.0) if seen.empty else (min(seen.low, 0.0), max(seen.high, 0.0))
    return CALIBRATORS[calibrator](seen)
