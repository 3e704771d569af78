"""The largest or smallest element along axes, infinities included, and its place."""

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


def place_of_extreme(x: Tir, axis: int, *, keepdims: bool, largest: bool, last: bool) -> Tir:
    """The index (int64) of the largest or smallest element along an axis; NaN exceeds all numbers, as in numpy.

    Args:
        x: numbers.
        axis: counted from the front.
        keepdims: keep the axis, with one element.
        largest: instead of the smallest.
        last: of equal elements, the last one counts instead of the first.
    """
    sizes, real = [int(size) for size in x.shape], str(x.dtype).startswith("float")
    along = te.reduce_axis((0, sizes[axis]), name="k")
    shape = [1 if a == axis else n for a, n in enumerate(sizes) if keepdims or a != axis]

    def combined(one: Tir, other: Tir) -> tuple[Tir, Tir]:
        (i, a), (k, b) = one, other
        better, same = (a > b) if largest else (a < b), a.equal(b)
        if real:
            better = tirx.any(better, tirx.all(tirx.isnan(a), tirx.Not(tirx.isnan(b))))
            same = tirx.any(same, tirx.all(tirx.isnan(a), tirx.isnan(b)))
        kept = tirx.any(better, tirx.all(same, (i > k) if last else (i < k)))
        return tirx.Select(kept, i, k), tirx.Select(kept, a, b)

    def start(index: Tir, value: Tir) -> tuple[Tir, Tir]:
        worst = tirx.min_value(value) if largest else tirx.max_value(value)
        if real:
            worst = tirx.const(-math.inf if largest else math.inf, value)
        return tirx.const(-1 if last else sizes[axis], index), worst

    reducer = te.comm_reducer(combined, start, name="place")

    def element(*place: Tir) -> tuple[Tir, Tir]:
        if keepdims:
            at = [along if a == axis else place[a] for a in range(len(sizes))]
        else:
            at = [*place[:axis], along, *place[axis:]]
        result: tuple[Tir, Tir] = reducer((along.astype("int64"), x(*at)), axis=along)
        return result

    found = te.compute(shape, element, name="place")[0]
    return te.compute(shape, lambda *place: found(*place), name="place_of_extreme")
