"""The largest or smallest element along axes, infinities included."""

from __future__ import annotations

import math
from collections.abc import Sequence

from tvm import te, tirx

from edgec.compiler.kernels.tir import Tir


def extreme_reducer(*, largest: bool) -> Tir:
    """A reducer that starts from infinity.

    TVM's own starts from the largest finite number, so that a fully masked row (-inf) would come out finite.
    """
    extreme, start = (tirx.max, -math.inf) if largest else (tirx.min, math.inf)
    return te.comm_reducer(lambda a, b: extreme(a, b), lambda dtype: tirx.const(start, dtype), name="extreme")


def extremes(x: Tir, axes: Sequence[int], *, keepdims: bool, largest: bool) -> Tir:
    """The largest (or smallest) elements of a tensor of real numbers along `axes`."""
    reducer = extreme_reducer(largest=largest)
    sizes = [int(size) for size in x.shape]
    along = {a: te.reduce_axis((0, sizes[a]), name=f"k{a}") for a in axes}
    kept = [a for a in range(len(sizes)) if keepdims or a not in along]
    shape = [1 if a in along else sizes[a] for a in kept]

    def element(*place: Tir) -> Tir:
        at = dict(zip(kept, place, strict=True)) | along
        return reducer(x(*[at[a] for a in range(len(sizes))]), axis=list(along.values()))

    return te.compute(shape, element, name="extreme")
