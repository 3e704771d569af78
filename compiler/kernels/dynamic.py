"""Kernels in TE whose sizes and amounts may be symbolic."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

from tvm import te, tirx

Dim: TypeAlias = Any  # an int, or a TIR expression


def reversed_along(x: te.Tensor, axis: int) -> te.Tensor:
    """The elements along an axis from the last to the first."""

    def element(*at: tirx.Expr) -> tirx.Expr:
        place = list(at)
        place[axis] = x.shape[axis] - 1 - place[axis]
        return x[tuple(place)]

    return te.compute(x.shape, element, name="reversed")


def spread(x: te.Tensor, shape: Sequence[Dim]) -> te.Tensor:
    """Broadcast to a shape: an axis of size 1, even where that shows only at run time, is repeated."""
    skipped = len(shape) - len(x.shape)

    def element(*at: tirx.Expr) -> tirx.Expr:
        own = at[skipped:]
        place = [
            _repeated(i, size, shape[skipped + axis])
            for axis, (i, size) in enumerate(zip(own, x.shape, strict=True))
        ]
        return x[tuple(place)]

    return te.compute(tuple(shape), element, name="spread")


def _repeated(at: tirx.Expr, size: Dim, wanted: Dim) -> tirx.Expr:
    if size is wanted or (isinstance(size, tirx.IntImm) and int(size) != 1):
        return at
    first = tirx.const(0, str(at.ty.dtype))
    return first if isinstance(size, tirx.IntImm) else tirx.Select(size == 1, first, at)


def strided(x: te.Tensor, starts: Sequence[Dim], steps: Sequence[Dim], shape: Sequence[Dim]) -> te.Tensor:
    """Every `steps`th element from `starts` on along each axis."""

    def element(*at: tirx.Expr) -> tirx.Expr:
        return x[tuple(start + i * step for i, start, step in zip(at, starts, steps, strict=True))]

    return te.compute(tuple(shape), element, name="strided")


def gathered(x: te.Tensor, indices: te.Tensor, axis: int) -> te.Tensor:
    """The rows along an axis that indices name, from the end on where negative."""
    rank, size = len(indices.shape), x.shape[axis]

    def element(*at: tirx.Expr) -> tirx.Expr:
        row = indices[tuple(at[axis : axis + rank])].astype("int64")
        row = tirx.Select(row < 0, row + size, row)
        return x[(*at[:axis], row, *at[axis + rank :])]

    shape = (*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :])
    return te.compute(shape, element, name="gathered")


def gathered_elements(x: te.Tensor, indices: te.Tensor, axis: int) -> te.Tensor:
    """For each index the element of its own place but along one axis; one out of range is that of the last element."""
    size = x.shape[axis]

    def element(*at: tirx.Expr) -> tirx.Expr:
        row = indices[tuple(at)].astype("int64")
        row = tirx.Select(row < 0, row + size, row)
        row = tirx.max(tirx.min(row, size - 1), tirx.const(0, "int64"))
        return x[(*at[:axis], row, *at[axis + 1 :])]

    return te.compute(indices.shape, element, name="gathered_elements")


def tensor_scattered(
    past: te.Tensor, update: te.Tensor, axis: int, around: bool, first: te.Tensor | None = None
) -> te.Tensor:
    """A cache with new rows along an axis.

    Args:
        past: the cache.
        update: the rows, of the shape of the cache but along the axis.
        axis: the axis.
        around: go on at the front behind the end.
        first: the first place to write, for each element of the first axis; None for 0.
    """
    length, count, zero = past.shape[axis], update.shape[axis], tirx.const(0, "int64")

    def element(*at: tirx.Expr) -> tirx.Expr:
        place = at[axis].astype("int64")
        if first is not None:
            place = place - first[at[0]].astype("int64")
        if around:
            place = tirx.Select(place < 0, place + length, place)
        row = tirx.max(tirx.min(place, count - 1), zero)
        inside = tirx.all(place >= 0, place < count)
        return tirx.Select(inside, update[(*at[:axis], row, *at[axis + 1 :])], past[tuple(at)])

    return te.compute(past.shape, element, name="tensor_scattered")


def tiled(x: te.Tensor, shape: Sequence[Dim]) -> te.Tensor:
    """Repeated along each axis until it has `shape`."""
    return te.compute(
        tuple(shape),
        lambda *at: x[tuple(tirx.floormod(i, size) for i, size in zip(at, x.shape, strict=True))],
        name="tiled",
    )


def counted(start: te.Tensor, step: te.Tensor, count: Dim) -> te.Tensor:
    """Numbers from `start` on, each `step` more."""
    dtype = start.dtype
    return te.compute((count,), lambda i: start() + i.astype(dtype) * step(), name="counted")


def padded(
    x: te.Tensor, before: Sequence[Dim], shape: Sequence[Dim], mode: str, value: te.Tensor | None = None
) -> te.Tensor:
    """A tensor with elements added (or, where negative, cut off) before and behind.

    Args:
        x: the tensor.
        before: how many are added before the first of each axis.
        shape: of the result.
        mode: `constant`, `reflect`, `edge` or `wrap`.
        value: of the added elements in the mode `constant`; None for 0.
    """

    def element(*at: tirx.Expr) -> tirx.Expr:
        place = [i - first for i, first in zip(at, before, strict=True)]
        if mode == "constant":
            inside = tirx.all(*(tirx.all(p >= 0, p < size) for p, size in zip(place, x.shape, strict=True)))
            other = tirx.const(0, x.dtype) if value is None else value()
            return tirx.if_then_else(inside, x[tuple(place)], other) if place else x()
        return x[tuple(_inside(p, size, mode) for p, size in zip(place, x.shape, strict=True))]

    return te.compute(tuple(shape), element, name="padded")


def _inside(place: tirx.Expr, size: Dim, mode: str) -> tirx.Expr:
    """The position of the element that an added one repeats."""
    if mode == "wrap":
        return tirx.floormod(place, size)
    if mode == "reflect":
        period = tirx.max(2 * (size - 1), 1)
        around = tirx.floormod(place, period)
        place = tirx.min(around, period - around)
    return tirx.max(tirx.min(place, size - 1), tirx.const(0, "int64"))


def reshaped_sizes(x: te.Tensor, wanted: te.Tensor, keeps_zero: bool) -> te.Tensor:
    """The shape that Reshape asks for: its own size in place of 0, and what is left in place of -1."""
    count, total = int(wanted.shape[0]), _product(x.shape)

    def own(axis: int) -> tirx.Expr:
        value = wanted[axis]
        if keeps_zero or axis >= len(x.shape):
            return value
        return tirx.Select(value == 0, x.shape[axis], value)

    def complete(axis: int) -> tirx.Expr:
        rest = _product(
            [tirx.Select(own(a) == -1, tirx.const(1, "int64"), own(a)) for a in range(count) if a != axis]
        )
        left = tirx.floordiv(total, tirx.max(rest, tirx.const(1, "int64")))
        return tirx.Select(own(axis) == -1, left, own(axis))

    return _vector([complete(axis) for axis in range(count)], "shape")


def slice_spans(
    x: te.Tensor, starts: te.Tensor, ends: te.Tensor, steps: te.Tensor, axes: Sequence[int]
) -> te.Tensor:
    """The first elements of slices along `axes`, then how many elements each has."""
    far = tirx.const(1 << 40, "int64")
    zero, one = tirx.const(0, "int64"), tirx.const(1, "int64")

    def clamped(at: tirx.Expr, length: Dim, forward: tirx.Expr) -> tirx.Expr:
        near = tirx.max(tirx.min(at, far), -far)  # the ends of int64 stand for far out
        around = tirx.Select(near < zero, near + length, near)
        low, high = tirx.Select(forward, zero, -one), tirx.Select(forward, length, length - one)
        return tirx.max(tirx.min(around, high), low)

    first, counts = [], []
    for number, axis in enumerate(axes):
        length, step = x.shape[axis], steps[number]
        forward = step > zero
        begin, end = (clamped(given[number], length, forward) for given in (starts, ends))
        distance = tirx.Select(forward, end - begin, begin - end)
        width = tirx.max(tirx.Select(forward, step, -step), one)
        counts.append(tirx.max(tirx.floordiv(distance + width - one, width), zero))
        first.append(tirx.max(begin, zero))
    return _vector([*first, *counts], "spans")


def padded_sizes(x: te.Tensor, widths: te.Tensor, axes: Sequence[int]) -> te.Tensor:
    """The shape of a padded tensor: `widths` has what is added before each of `axes`, then behind."""
    sizes = [tirx.Cast("int64", size) for size in x.shape]
    for number, axis in enumerate(axes):
        sizes[axis] = sizes[axis] + widths[number] + widths[number + len(axes)]
    return _vector([tirx.max(size, tirx.const(0, "int64")) for size in sizes], "shape")


def _product(sizes: Sequence[Dim]) -> tirx.Expr:
    total = tirx.const(1, "int64")
    for size in sizes:
        total = total * size
    return total


def _vector(values: Sequence[tirx.Expr], name: str) -> te.Tensor:
    """A vector of int64 of these elements."""

    def element(place: tirx.Expr) -> tirx.Expr:
        chosen = values[-1]
        for number in range(len(values) - 2, -1, -1):
            chosen = tirx.Select(place == number, values[number], chosen)
        return chosen

    return te.compute((len(values),), element, name=name)


def hardmax(x: te.Tensor, found: te.Tensor, axis: int) -> te.Tensor:
    """1 at the place along an axis that `found` names, 0 elsewhere."""

    def element(*at: tirx.Expr) -> tirx.Expr:
        hit = found[(*at[:axis], *at[axis + 1 :])] == at[axis].astype("int64")
        return tirx.Select(hit, tirx.const(1, x.dtype), tirx.const(0, x.dtype))

    return te.compute(x.shape, element, name="hardmax")


def diagonal(shape: Sequence[Dim], offset: int, dtype: str) -> te.Tensor:
    """A matrix of ones on a diagonal, zeros elsewhere."""
    one, zero = tirx.const(1, dtype), tirx.const(0, dtype)
    return te.compute(tuple(shape), lambda i, j: tirx.Select(i + offset == j, one, zero), name="diagonal")


def framed(signal: te.Tensor, length: int, step: int, frames: Dim) -> te.Tensor:
    """Stretches `[batch, frames, length]` of signals `[batch, samples]`, each `step` after the last."""
    return te.compute(
        (signal.shape[0], frames, length), lambda b, f, i: signal[b, f * step + i], name="framed"
    )


def extremes(x: te.Tensor, axes: Sequence[int], keepdims: bool, largest: bool) -> te.Tensor:
    """The largest (or smallest) elements along `axes`."""
    along = {int(a): te.reduce_axis((0, x.shape[int(a)]), name=f"k{int(a)}") for a in axes}
    kept = [a for a in range(len(x.shape)) if keepdims or a not in along]
    shape = [1 if a in along else x.shape[a] for a in kept]
    reduce = te.max if largest else te.min

    def element(*at: tirx.Expr) -> tirx.Expr:
        place = dict(zip(kept, at, strict=True)) | along
        return reduce(x[tuple(place[a] for a in range(len(x.shape)))], axis=list(along.values()))

    return te.compute(tuple(shape), element, name="extreme")


def max_pool(
    x: te.Tensor,
    kernel: Sequence[int],
    strides: Sequence[int],
    dilations: Sequence[int],
    before: Sequence[Dim],
    shape: Sequence[Dim],
) -> te.Tensor:
    """The largest element of each window; what is added around the data takes no part."""
    lowest = tirx.min_value(x.dtype)
    return _pooled(x, kernel, strides, dilations, before, shape, te.max, lowest, "max_pool")


def sum_pool(
    x: te.Tensor,
    kernel: Sequence[int],
    strides: Sequence[int],
    dilations: Sequence[int],
    before: Sequence[Dim],
    shape: Sequence[Dim],
) -> te.Tensor:
    """The sum of each window; what is added around the data counts as zeros."""
    return _pooled(x, kernel, strides, dilations, before, shape, te.sum, tirx.const(0, x.dtype), "sum_pool")


def average_pool(
    x: te.Tensor,
    kernel: Sequence[int],
    strides: Sequence[int],
    dilations: Sequence[int],
    before: Sequence[Dim],
    behind: Sequence[Dim],
    shape: Sequence[Dim],
    counts_pads: bool,
) -> te.Tensor:
    """The mean of each window, over its elements within the data, or (`counts_pads`) within the padded data."""
    total = sum_pool(x, kernel, strides, dilations, before, shape)

    def mean(*at: tirx.Expr) -> tirx.Expr:
        count = tirx.const(1, "int64")
        for axis, place in enumerate(at[2:]):
            k, s, d = int(kernel[axis]), int(strides[axis]), int(dilations[axis])
            first = place * s - before[axis]
            low = -before[axis] if counts_pads else 0
            high = x.shape[axis + 2] + (behind[axis] if counts_pads else 0)
            # taps at first, first + d, …: those not below `low` and below `high`
            skipped = tirx.max(tirx.floordiv(low - first + (d - 1), d), 0)
            reached = tirx.min(tirx.floordiv(high - first + (d - 1), d), k)
            count = count * tirx.max(reached - skipped, 1)
        return total[tuple(at)] / count.astype(x.dtype)

    return te.compute(tuple(shape), mean, name="average_pool")


def _pooled(
    x: te.Tensor,
    kernel: Sequence[int],
    strides: Sequence[int],
    dilations: Sequence[int],
    before: Sequence[Dim],
    shape: Sequence[Dim],
    reduce: Any,  # noqa: ANN401 - a reducer of TE
    outside: tirx.Expr,
    name: str,
) -> te.Tensor:
    taps = [te.reduce_axis((0, int(k)), name=f"k{i}") for i, k in enumerate(kernel)]

    def element(*at: tirx.Expr) -> tirx.Expr:
        place = [
            o * int(s) + tap * int(d) - first
            for o, tap, s, d, first in zip(at[2:], taps, strides, dilations, before, strict=True)
        ]
        inside = tirx.all(*(tirx.all(p >= 0, p < n) for p, n in zip(place, x.shape[2:], strict=True)))
        return reduce(tirx.if_then_else(inside, x[(*at[:2], *place)], outside), axis=taps)

    return te.compute(tuple(shape), element, name=name)
