"""Expected mean and variance of activations, channel by channel, through a network of random weights.

A batch norm normalises by statistics measured in training. Networks with random weights have no training, and arbitrary
statistics make the activations of a 50-layer network vanish or overflow. So the builder propagates each channel's
expected mean and variance, assuming normal distributions and independent channels, and writes them into the batch
norms: scales then stay near one at any depth.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

_NODES, _NODE_WEIGHTS = np.polynomial.hermite_e.hermegauss(40)
_NODE_WEIGHTS = _NODE_WEIGHTS / math.sqrt(2 * math.pi)
_FLOOR = 1e-6


@dataclass(frozen=True)
class Moments:
    """Mean and variance of each channel, both `[channels]` float64."""

    mean: Array
    var: Array

    @classmethod
    def standard(cls, channels: int) -> Moments:
        """Zero mean and unit variance: a normalised input."""
        return cls(np.zeros(channels), np.ones(channels))

    @property
    def power(self) -> Array:
        """Second moment of each channel."""
        return self.mean**2 + self.var

    def through(self, function: Callable[[Array], Array]) -> Moments:
        """Moments after an element-wise `function`, by Gauss-Hermite quadrature."""
        samples = function(self.mean[:, None] + np.sqrt(self.var)[:, None] * _NODES)
        mean = samples @ _NODE_WEIGHTS
        var = np.maximum((samples**2) @ _NODE_WEIGHTS - mean**2, _FLOOR)
        return Moments(mean, var)

    def plus(self, other: Moments) -> Moments:
        """Moments of the sum of two independent values."""
        return Moments(self.mean + other.mean, self.var + other.var)

    def times(self, other: Moments) -> Moments:
        """Moments of the product of two independent values."""
        mean = self.mean * other.mean
        return Moments(mean, np.maximum(self.power * other.power - mean**2, _FLOOR))

    def affine(self, scale: Array, shift: Array) -> Moments:
        """Moments of `scale * x + shift`."""
        return Moments(self.mean * scale + shift, np.maximum(self.var * scale**2, _FLOOR))

    def pick(self, channels: NDArray[np.int64]) -> Moments:
        """Moments of the named channels, in that order."""
        return Moments(self.mean[channels], self.var[channels])

    def shrunk(self, factor: float) -> Moments:
        """Moments after averaging: the same means, `factor` of the variance."""
        return Moments(self.mean, np.maximum(self.var * factor, _FLOOR))

    def of_maximum(self) -> Moments:
        """Rough moments of the largest of a few correlated neighbours (exact ones need covariances)."""
        return Moments(self.mean + 0.8 * np.sqrt(self.var), np.maximum(self.var * 0.7, _FLOOR))


def coarse(values: Array) -> NDArray[np.float32]:
    """Round `values` to 12 significant bits, so that sums whose last bits differ between machines become equal."""
    fraction, exponent = np.frexp(values)
    return np.ldexp(np.round(fraction * 4096) / 4096, exponent).astype(np.float32)


def joined(parts: list[Moments]) -> Moments:
    """Moments of a concatenation along the channels."""
    return Moments(np.concatenate([p.mean for p in parts]), np.concatenate([p.var for p in parts]))


def through_weights(x: Moments, weight: NDArray[np.float32], groups: int) -> Moments:
    """Moments after a convolution or dense layer.

    `weight` is `[out_channels, in_channels / groups, ...]`; trailing axes are taps of the kernel. The
    variance assumes independent taps, which is right on average over random filters, whatever the correlation of
    neighbours.
    """
    out_channels, per_group = weight.shape[:2]
    flat = weight.reshape(groups, out_channels // groups, per_group, -1).astype(np.float64)
    mean = np.einsum("goct,gc->go", flat, x.mean.reshape(groups, per_group)).reshape(-1)
    var = np.einsum("goct,gc->go", flat**2, x.var.reshape(groups, per_group)).reshape(-1)
    return Moments(mean, np.maximum(var, _FLOOR))
