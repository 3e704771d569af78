"""Slices, steps through axes, and their reverse."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from edgec.compiler.frontends.tflite.flat import Operator
from edgec.compiler.frontends.tflite.graph import Refused, Writer
from edgec.compiler.frontends.tflite.registry import converts
from edgec.compiler.frontends.tflite.shaping import moved

BEFORE_FIRST, AFTER_LAST = np.iinfo(np.int64).min, np.iinfo(np.int64).max


@converts("SLICE", inputs=3, outputs=1)
def _slice(g: Writer, op: Operator) -> None:
    x, rank = g.get(op.inputs[0]), g.rank(op.inputs[0])
    axes = np.arange(rank, dtype=np.int64)
    if not g.is_constant(op.inputs[2]):
        first, size = (g.get_int64(i) for i in op.inputs[1:])
        end = g.op("Where", g.op("Less", size, np.array(0)), np.array(AFTER_LAST), g.op("Add", first, size))
        moved(g, op, g.op("Slice", x, first, end, axes))
        return
    sizes = np.array(g.ints(op.inputs[2]), np.int64)
    if len(sizes) != rank:
        raise Refused(f"it has {len(sizes)} sizes for {rank} axes")
    shape = np.array(g.tensor(op.inputs[0]).shape, np.int64)
    if g.is_constant(op.inputs[1]):
        begin = np.array(g.ints(op.inputs[1]), np.int64)
        moved(g, op, g.op("Slice", x, begin, np.where(sizes < 0, shape, begin + sizes), axes))
        return
    moved(
        g, op, window(g, x, g.get_int64(op.inputs[1]), tuple(np.where(sizes < 0, shape, sizes)), tuple(shape))
    )


def window(g: Writer, x: str, begin: str, sizes: tuple[int, ...], shape: tuple[int, ...]) -> str:
    """A part of constant size at a place known at run time: a gather along each axis that it is a part of."""
    for axis, (size, whole) in enumerate(zip(sizes, shape, strict=True)):
        if size == whole:
            continue
        first = g.op("Gather", begin, np.array([axis], np.int64), axis=0)
        x = g.op("Gather", x, g.op("Add", first, np.arange(size, dtype=np.int64)), axis=axis)
    return x


@dataclass(frozen=True)
class Steps:
    """What STRIDED_SLICE does along one axis of its input.

    Attributes:
        first, last, step: of the slice; None for the whole axis from that side.
        position: of the entry in the operator's list; -1 where it has none.
        gone: whether one entry is picked and the axis removed.
    """

    first: int | None = None
    last: int | None = None
    step: int = 1
    position: int = -1
    gone: bool = False


@converts("STRIDED_SLICE", inputs=4, outputs=1)
def _strided_slice(g: Writer, op: Operator) -> None:
    rank = g.rank(op.inputs[0])
    steps = g.ints(op.inputs[3])
    if 0 in steps:
        raise Refused("a step is zero")
    known = [g.ints(i) if g.is_constant(i) else None for i in op.inputs[1:3]]
    axes, new = _by_axis(op, rank, known[0], known[1], steps)
    x = g.get(op.inputs[0])
    x = _computed(g, op, x, axes) if None in known else _constant(g, x, axes)
    gone = [axis for axis, one in enumerate(axes) if one.gone]
    x = g.op("Squeeze", x, np.array(gone, np.int64)) if gone else x
    moved(g, op, g.op("Unsqueeze", x, np.array(new, np.int64)) if new else x)


def _by_axis(
    op: Operator, rank: int, begin: list[int] | None, end: list[int] | None, steps: list[int]
) -> tuple[list[Steps], list[int]]:
    """The slice along each axis of the input, and the positions of new axes in the output."""
    options = op.options
    entries = len(steps)
    fresh = [k for k in range(entries) if options.newAxisMask >> k & 1 and not options.ellipsisMask >> k & 1]
    ellipses = [k for k in range(entries) if options.ellipsisMask >> k & 1]
    taken = entries - len(fresh) - len(ellipses)
    if len(ellipses) > 1 or taken > rank:
        raise Refused(f"it has {entries} entries for {rank} axes")
    axes: list[Steps] = []
    new: list[int] = []
    place = 0
    for k in range(entries):
        if k in ellipses:
            axes += [Steps()] * (rank - taken)
            place += rank - taken
        elif k in fresh:
            new.append(place)
            place += 1
        else:
            axes.append(_entry(options, k, begin, end, steps[k]))
            place += not axes[-1].gone
    return axes + [Steps()] * (rank - len(axes)), new


def _entry(options: object, k: int, begin: list[int] | None, end: list[int] | None, step: int) -> Steps:
    def masked(name: str) -> bool:
        return bool(getattr(options, name) >> k & 1)

    first = None if begin is None else begin[k]
    last = None if end is None else end[k]
    if masked("shrinkAxisMask"):
        return Steps(0 if masked("beginMask") else first, None, 1, k, gone=True)
    if getattr(options, "offset", False) and first is not None and last is not None:
        last += first
    first = None if masked("beginMask") else first
    return Steps(first, None if masked("endMask") else last, step, k)


def _constant(g: Writer, x: str, axes: list[Steps]) -> str:
    starts, ends, along, steps = [], [], [], []
    for axis, one in enumerate(axes):
        if one == Steps():
            continue
        first, last = one.first, one.last
        if one.gone and first is not None:
            last = first + 1 if first != -1 else None
        forwards = one.step > 0
        starts.append((0 if forwards else AFTER_LAST) if first is None else first)
        ends.append((AFTER_LAST if forwards else BEFORE_FIRST) if last is None else last)
        along.append(axis)
        steps.append(one.step)
    parts = [np.array(values, np.int64) for values in (starts, ends, along, steps)]
    return str(g.op("Slice", x, *parts)) if along else x


def _computed(g: Writer, op: Operator, x: str, axes: list[Steps]) -> str:
    """Slices whose ends are computed. A picked entry is a gather, so that its size is known."""
    options = op.options
    for axis, one in enumerate(axes):
        if one == Steps() or one.position < 0:
            continue
        first, last = (
            g.op("Gather", g.get_int64(i), np.array([one.position], np.int64), axis=0) for i in op.inputs[1:3]
        )
        if one.gone:
            x = g.op("Gather", x, first if one.first is None else np.array([one.first], np.int64), axis=axis)
            continue
        last = g.op("Add", first, last) if getattr(options, "offset", False) else last
        forwards = one.step > 0
        if options.beginMask >> one.position & 1:
            first = g.constant(np.array([0 if forwards else AFTER_LAST], np.int64))
        if options.endMask >> one.position & 1:
            last = g.constant(np.array([AFTER_LAST if forwards else BEFORE_FIRST], np.int64))
        whole = options.beginMask >> one.position & 1 and options.endMask >> one.position & 1
        if not (whole and one.step == 1):
            x = g.op("Slice", x, first, last, np.array([axis], np.int64), np.array([one.step], np.int64))
    return x


@converts("REVERSE_V2", inputs=2, outputs=1)
def _reverse(g: Writer, op: Operator) -> None:
    axes = np.array([axis % g.rank(op.inputs[0]) for axis in g.ints(op.inputs[1])], np.int64)
    last, before_first, back = (np.full(len(axes), to, np.int64) for to in (-1, BEFORE_FIRST, -1))
    moved(g, op, g.op("Slice", g.get(op.inputs[0]), last, before_first, axes, back))


@converts("REVERSE_SEQUENCE", inputs=2, outputs=1)
def _reverse_sequence(g: Writer, op: Operator) -> None:
    """Each entry of the batch axis reversed up to a length of its own: a gather of mirrored positions."""
    rank, shape = g.rank(op.inputs[0]), g.tensor(op.inputs[0]).shape
    batch, along = op.options.batchDim % rank, op.options.seqDim % rank
    if batch == along:
        raise Refused("it reverses along its batch axis")
    order = [batch, along, *(axis for axis in range(rank) if axis not in (batch, along))]
    x = g.op("Transpose", g.get(op.inputs[0]), perm=order)
    lengths = g.op("Reshape", g.get_int64(op.inputs[1]), np.array([-1, 1], np.int64))
    places = np.arange(shape[along], dtype=np.int64)[None]
    mirrored = g.op("Sub", g.op("Sub", lengths, np.array(1, np.int64)), places)
    places = g.op("Where", g.op("Less", places, lengths), mirrored, places)
    x = g.op("GatherND", x, g.op("Unsqueeze", places, np.array([2], np.int64)), batch_dims=1)
    moved(g, op, g.op("Transpose", x, perm=[order.index(axis) for axis in range(rank)]))


@converts("DYNAMIC_UPDATE_SLICE", inputs=3, outputs=1)
def _dynamic_update_slice(g: Writer, op: Operator) -> None:
    """A part replaced at a place known at run time, which is moved so that the part fits."""
    shape, part = g.tensor(op.inputs[0]).shape, g.tensor(op.inputs[1]).shape
    if len(shape) != len(part) or any(a < b for a, b in zip(shape, part, strict=True)):
        raise Refused(f"its part of shape {list(part)} does not fit into {list(shape)}")
    room = np.array(shape, np.int64) - np.array(part, np.int64)
    begin = g.op("Min", g.op("Max", g.get_int64(op.inputs[2]), np.zeros_like(room)), room)
    y = g.get(op.inputs[1])
    inside = g.constant(np.ones((1,) * len(shape), bool))
    for axis, (whole, size) in enumerate(zip(shape, part, strict=True)):
        if whole == size:
            continue
        first = g.op("Gather", begin, np.array([axis], np.int64), axis=0)
        place = g.op("Sub", np.arange(whole, dtype=np.int64), first)
        within = g.op("And", g.op("GreaterOrEqual", place, np.array(0)), g.op("Less", place, np.array(size)))
        at = g.op("Clip", place, np.array(0, np.int64), np.array(size - 1, np.int64))
        y = g.op("Gather", y, at, axis=axis)
        wide = np.array([whole if a == axis else 1 for a in range(len(shape))], np.int64)
        inside = g.op("And", inside, g.op("Reshape", within, wide))
    moved(g, op, g.op("Where", inside, y, g.get(op.inputs[0])))
