"""Slices, joins, pads and gathers with everything static."""

from __future__ import annotations

import numpy as np
from tvm import relax

from edgec.compiler.frontends.relax.builder import Expr, constant
from edgec.compiler.frontends.relax.converters.registry import (
    Node,
    Refusal,
    axis_of,
    converts,
    dtype_of,
    is_constant,
    reshaped,
    shape_of,
    value_of,
)


@converts("Slice")
def _slice(node: Node) -> Expr:
    shape = node.shape(0)
    starts, ends = node.ints("starts", 1), node.ints("ends", 2)
    if starts is None or ends is None:
        raise Refusal("its starts or ends are missing")
    axes = node.ints("axes", 3) or list(range(len(starts)))
    steps = node.ints("steps", 4) or [1] * len(starts)
    if not shape:
        raise Refusal("a scalar has no slices")
    picks = {}
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        if step == 0:
            raise Refusal("a step is 0")
        picks[axis_of(axis, len(shape))] = slice(start, end, step)
    return sliced(node, node.input(0), picks)


def sliced(node: Node, x: Expr, picks: dict[int, slice]) -> Expr:
    """Python slices of a tensor, by axis."""
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
    axis = axis_of(int(node.attrs.get("axis", 1)), len(shape_of(parts[0])))
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
        raise Refusal(f"its parts {sizes} do not add up to the size {shape[axis]} of axis {axis}")
    ends = np.cumsum(sizes)
    return [
        node.emit(sliced(node, node.input(0), {axis: slice(int(end) - size, int(end), 1)}))
        if shape[axis] != size
        else node.input(0)
        for end, size in zip(ends, sizes, strict=True)
    ]


@converts("Reshape")
def _reshape(node: Node) -> Expr:
    shape = node.shape(0)
    wanted = node.ints("shape", 1)
    if wanted is None:
        raise Refusal("its shape is missing")
    if not node.attrs.get("allowzero", 0):
        wanted = [shape[i] if size == 0 and i < len(shape) else size for i, size in enumerate(wanted)]
    total = int(np.prod(shape))
    if -1 in wanted:
        rest = int(np.prod([size for size in wanted if size != -1]))
        wanted[wanted.index(-1)] = total // rest if rest else 0
    if int(np.prod(wanted)) != total or -1 in wanted:
        raise Refusal(f"the shape {list(shape)} cannot become {wanted}")
    return node.input(0) if tuple(wanted) == shape else reshaped(node.input(0), wanted)


@converts("Flatten")
def _flatten(node: Node) -> Expr:
    shape = node.shape(0)
    axis = int(node.attrs.get("axis", 1))
    axis = axis + len(shape) if axis < 0 else axis
    return reshaped(node.input(0), [int(np.prod(shape[:axis])), int(np.prod(shape[axis:]))])


@converts("Squeeze")
def _squeeze(node: Node) -> Expr:
    shape = node.shape(0)
    axes = node.ints("axes", 1)
    gone = {axis_of(a, len(shape)) for a in axes} if axes is not None else None
    kept = [s for i, s in enumerate(shape) if (s != 1 if gone is None else i not in gone)]
    return reshaped(node.input(0), kept)


@converts("Unsqueeze")
def _unsqueeze(node: Node) -> Expr:
    shape, axes = list(node.shape(0)), node.ints("axes", 1)
    if axes is None:
        raise Refusal("its axes are missing")
    rank = len(shape) + len(axes)
    for axis in sorted(axis_of(a, rank) for a in axes):
        shape.insert(axis, 1)
    return reshaped(node.input(0), shape)


@converts("Gather")
def _gather(node: Node) -> Expr:
    shape = node.shape(0)
    axis = axis_of(int(node.attrs.get("axis", 0)), len(shape))
    indices = node.input(1)
    if is_constant(indices):
        rows = value_of(indices).astype("int64")
        if rows.size and (rows.min() < -shape[axis] or rows.max() >= shape[axis]):
            raise Refusal(f"an index is out of range for axis {axis} of size {shape[axis]}")
        rows = np.where(rows < 0, rows + shape[axis], rows)
        if rows.size == 1:
            out = [*shape[:axis], *rows.shape, *shape[axis + 1 :]]
            row = int(rows.reshape(-1)[0])
            part = node.emit(sliced(node, node.input(0), {axis: slice(row, row + 1, 1)}))
            return reshaped(part, out)
        indices = constant(rows)
    elif dtype_of(indices).startswith("int"):
        size = constant(shape[axis], dtype_of(indices))
        zero = constant(0, dtype_of(indices))
        indices = node.emit(
            relax.op.where(relax.op.less(indices, zero), relax.op.add(indices, size), indices)
        )
    return relax.op.take(node.input(0), indices, axis=axis)


@converts("Expand")
def _expand(node: Node) -> Expr:
    shape, wanted = node.shape(0), node.ints("shape", 1)
    if wanted is None:
        raise Refusal("its shape is missing")
    full = np.broadcast_shapes(shape, tuple(wanted))
    return node.input(0) if full == shape else relax.op.broadcast_to(node.input(0), full)


@converts("Tile")
def _tile(node: Node) -> Expr:
    repeats = node.ints("repeats", 1)
    if repeats is None:
        raise Refusal("its repeats are missing")
    out = [size * times for size, times in zip(node.shape(0), repeats, strict=True)]
    if 0 in out:
        return constant(np.zeros(out, node.dtype(0)))
    # Not relax's tile: its index arithmetic modulo the sizes is compiled wrongly for AVX-512 by LLVM 22
    # (a [2,3,4,5] tensor tiled 3×6×4×2 came out as noise).
    narrow, wide = [], []
    for size, times in zip(node.shape(0), repeats, strict=True):
        narrow += [1, size]
        wide += [times, size]
    spread = node.emit(relax.op.broadcast_to(node.emit(reshaped(node.input(0), narrow)), wide))
    return reshaped(spread, out)


@converts("Transpose")
def _transpose(node: Node) -> Expr:
    shape = node.shape(0)
    order = [int(a) for a in node.attrs.get("perm", range(len(shape) - 1, -1, -1))]
    if order == list(range(len(shape))):
        return node.input(0)
    moved = [a for a in order if shape[a] != 1]
    if moved == sorted(moved):  # only axes of size 1 change place: no data moves
        return reshaped(node.input(0), [shape[a] for a in order])
    return relax.op.permute_dims(node.input(0), order)
