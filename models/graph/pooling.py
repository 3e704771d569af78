"""Pooling and resizing."""

from __future__ import annotations

import math

import numpy as np

from edgec.models.graph.builder import Builder
from edgec.models.graph.values import Pair, Value, moments_of, pair


class Pooling(Builder):
    """Pooling and resizing."""

    def max_pool(self, x: Value, kernel: int, stride: int, padding: int = 0, *, ceil: bool = False) -> Value:
        """Maximum over windows of `kernel` × `kernel`."""
        size = _pooled(x.shape, kernel, stride, padding, ceil)
        return self._one(
            "MaxPool", [x.name], (*x.shape[:2], *size), moments_of(x).of_maximum(), ceil_mode=int(ceil),
            dilations=[1, 1], kernel_shape=[kernel] * 2, pads=[padding] * 4, strides=[stride] * 2,
        )  # fmt: skip

    def avg_pool(self, x: Value, kernel: Pair, stride: Pair, padding: int = 0) -> Value:
        """Average over windows, padding counted (as PyTorch does by default)."""
        kh, kw = pair(kernel)
        sh, sw = pair(stride)
        h, w = (
            (s + 2 * padding - k) // st + 1 for s, k, st in zip(x.shape[2:], (kh, kw), (sh, sw), strict=True)
        )
        return self._one(
            "AveragePool", [x.name], (*x.shape[:2], h, w), moments_of(x).shrunk(1 / math.sqrt(kh * kw)),
            ceil_mode=0, count_include_pad=1, kernel_shape=[kh, kw], pads=[padding] * 4, strides=[sh, sw],
        )  # fmt: skip

    def global_pool(self, x: Value) -> Value:
        """Average over height and width: `[N, C, 1, 1]`."""
        spread = 1 / max(1.0, math.sqrt(x.shape[2] * x.shape[3]))
        return self._one("GlobalAveragePool", [x.name], (*x.shape[:2], 1, 1), moments_of(x).shrunk(spread))

    def resize2x(self, x: Value) -> Value:
        """Nearest-neighbour upsampling by two."""
        scales = self.constant("const.scales2x", np.array([1, 1, 2, 2], np.float32))
        n, c, h, w = x.shape
        return self._one(
            "Resize", [x.name, "", scales], (n, c, 2 * h, 2 * w), x.moments, mode="nearest",
            coordinate_transformation_mode="asymmetric", nearest_mode="floor", cubic_coeff_a=-0.75,
        )  # fmt: skip


def _pooled(shape: tuple[int, ...], kernel: int, stride: int, padding: int, ceil: bool) -> tuple[int, int]:
    spans = [size + 2 * padding - kernel for size in shape[2:]]
    height, width = ((-(-span // stride) if ceil else span // stride) + 1 for span in spans)
    return height, width
