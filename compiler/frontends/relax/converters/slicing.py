"""Slices, joins and splits, crops and pads."""

from __future__ import annotations

import numpy as np
from tvm import relax

from edgec.compiler.frontends.relax.builder import Expr, constant
from edgec.compiler.frontends.relax.converters.registry import (
    CannotConvert,
    Node,
    axis_of,
    converts,
    dtype_of,
    rank_of,
    shape_of,
)


@converts("Slice")
def _slice(node: Node) -> Expr:
    shape = node.shape(0)
    starts, ends = node.ints("starts", 1), node.ints("ends", 2)
    if starts is None or ends is None:
        raise CannotConvert("its starts or ends are missing")
    axes = node.ints("axes", 3) or list(range(len(starts)))
    steps = node.ints("steps", 4) or [1] * len(starts)
    if not shape:
        raise CannotConvert("a scalar has no slices")
    picks = {}
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        if step == 0:
            raise CannotConvert("a step is 0")
        picks[axis_of(axis, len(shape))] = slice(start, end, step)
    return sliced(node, node.input(0), picks)


def sliced(node: Node, x: Expr, picks: dict[int, slice]) -> Expr:
    """A tensor sliced as by Python's slices, by axis."""
    shape = shape_of(x)
    out, axes, begin, end, strides = list(shape), [], [], [], []
    for axis, pick in sorted(picks.items()):
        span = range(*pick.indices(shape[axis]))
        out[axis] = len(span)
        if len(span) == shape[axis] and span.step == 1:
            continue
        axes.append(axis)
        begin.append(span.start)
        end.append(span.stop)
        strides.append(span.step)
    if 0 in out:
        return constant(np.zeros(out, dtype_of(x)))
    if not axes:
        return x
    if all(stride > 0 for stride in strides):
        return relax.op.strided_slice(x, axes, begin, end, strides, assume_inbound=True)
    for axis, first, last, step in zip(axes, begin, end, strides, strict=True):
        rows = np.arange(first, last, step, dtype="int64")
        x = node.emit(relax.op.take(x, constant(rows), axis=axis))
    return x


@converts("Concat")
def _concat(node: Node) -> Expr:
    parts = [part for part in node.inputs if part is not None]
    axis = axis_of(int(node.attrs.get("axis", 1)), rank_of(parts[0]))
    parts = [part for part in parts if shape_of(part)[axis] > 0] or parts[:1]
    return parts[0] if len(parts) == 1 else relax.op.concat(parts, axis)


@converts("Split")
def _split(node: Node) -> Expr | list[Expr]:
    shape = node.shape(0)
    axis = axis_of(int(node.attrs.get("axis", 0)), len(shape))
    sizes = node.ints("split", 1)
    if sizes is None:
        count = int(node.attrs.get("num_outputs", len(node.outputs)))
        step = -(-shape[axis] // count)
        sizes = [min(step, shape[axis] - step * i) for i in range(count)]
    if sum(sizes) != shape[axis] or len(sizes) < len(node.outputs):
        raise CannotConvert(f"its parts {sizes} do not add up to the size {shape[axis]} of axis {axis}")
    ends = np.cumsum(sizes)
    return [
        node.emit(sliced(node, node.input(0), {axis: slice(int(end) - size, int(end), 1)}))
        if shape[axis] != size
        else node.input(0)
        for end, size in zip(ends, sizes, strict=True)
    ]


@converts("CenterCropPad")
def _center_crop_pad(node: Node) -> Expr:
    x, shape, given = node.input(0), node.shape(0), node.array(1)
    if given is None:
        raise CannotConvert("its shape is missing")
    axes = [axis_of(int(a), len(shape)) for a in node.attrs.get("axes") or range(len(shape))]
    picks, widths = {}, [0] * (2 * len(shape))
    for axis, size in zip(axes, (int(s) for s in given.reshape(-1)), strict=True):
        if size < shape[axis]:
            start = (shape[axis] - size) // 2
            picks[axis] = slice(start, start + size)
        else:
            before = (size - shape[axis]) // 2
            widths[2 * axis], widths[2 * axis + 1] = before, size - shape[axis] - before
    y = node.emit(sliced(node, x, picks))
    return relax.op.nn.pad(y, widths) if any(widths) else y


@converts("Crop")
def _crop(node: Node) -> Expr:
    _, _, height, width = node.shape(0)
    left, top, right, bottom = (int(b) for b in node.attrs["border"])
    if "scale" in node.attrs:
        high, wide = (int(s) for s in node.attrs["scale"])
        picks = {2: slice(top, top + high), 3: slice(left, left + wide)}
    else:
        picks = {2: slice(top, height - bottom), 3: slice(left, width - right)}
    return sliced(node, node.input(0), picks)
