"""Weighted sums of a few elements along an axis."""

from __future__ import annotations

from tvm import te

from edgec.compiler.kernels.tir import Tir


def interpolated(x: Tir, places: Tir, weights: Tir) -> Tir:
    """The sums over `k` of `x[o, places[j, k], i] * weights[j, k]`, written out, so that they are vectors along `i`.

    Args:
        x: `[outer, from, inner]`.
        places: `[to, taps]`.
        weights: `[to, taps]`, of the type of `x`.
    """
    taps = int(places.shape[1])

    def element(o: Tir, j: Tir, i: Tir) -> Tir:
        total = x(o, places(j, 0), i) * weights(j, 0)
        for k in range(1, taps):
            total = total + x(o, places(j, k), i) * weights(j, k)
        return total

    return te.compute((x.shape[0], places.shape[0], x.shape[2]), element, name="interpolated")
