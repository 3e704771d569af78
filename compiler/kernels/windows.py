"""Sums over sliding windows."""

from __future__ import annotations

from collections.abc import Sequence

from tvm import te

from edgec.compiler.kernels.tir import Tir


def window_sums(
    x: Tir, out: Sequence[int], kernel: Sequence[int], strides: Sequence[int], dilations: Sequence[int]
) -> Tir:
    """Sums over windows of the last axes of a padded tensor.

    Args:
        x: `[batch, channels, …]`.
        out: how many windows there are along each of the axes.
        kernel: how many elements a window has along each.
        strides: from a window to the next.
        dilations: from an element of a window to the next.
    """
    taps = [te.reduce_axis((0, size), name=f"k{axis}") for axis, size in enumerate(kernel)]

    def element(n: Tir, c: Tir, *place: Tir) -> Tir:
        at = [p * s + k * d for p, s, k, d in zip(place, strides, taps, dilations, strict=True)]
        return te.sum(x(n, c, *at), axis=taps)

    return te.compute((x.shape[0], x.shape[1], *out), element, name="window_sums")
