"""GATHER and SCATTER as StableHLO defines them: windows at places along any axes."""

from __future__ import annotations

import numpy as np

from edgec.compiler.frontends.tflite.flat import Operator
from edgec.compiler.frontends.tflite.graph import Array, Refused, Writer
from edgec.compiler.frontends.tflite.registry import converts

MOST_PLACES = 1 << 22  # indices of a window at all places
REDUCTIONS = {
    "": "none",
    "STABLEHLO_ADD": "add",
    "STABLEHLO_MULTIPLY": "mul",
    "STABLEHLO_MINIMUM": "min",
    "STABLEHLO_MAXIMUM": "max",
}


def _listed(values: object) -> list[int]:
    return [] if values is None else [int(v) for v in values]  # type: ignore[attr-defined]


def _places(
    g: Writer,
    index: int,
    vector: int,
    axes: list[int],
    shape: tuple[int, ...],
    sizes: list[int],
    room: Array | None,
) -> tuple[str, tuple[int, ...]]:
    """For each place and each entry of its window, the index in the operand `[places, entries, axes]`.

    Args:
        vector: the axis of the indices that holds one index along each of `axes`.
        sizes: of the window.
        room: the largest index along each axis; None to leave them as they are.

    Returns:
        the indices, and the shape of the places.
    """
    given = g.tensor(index).shape
    at = g.get_int64(index)
    if vector == len(given):
        at, given = g.op("Unsqueeze", at, np.array([vector], np.int64)), (*given, 1)
    order = [k for k in range(len(given)) if k != vector] + [vector]
    batch = tuple(given[k] for k in order[:-1])
    if given[vector] != len(axes):
        raise Refused(f"its indices have {given[vector]} parts for {len(axes)} axes")
    at = g.op("Reshape", g.op("Transpose", at, perm=order), np.array([-1, 1, len(axes)], np.int64))
    if room is not None:
        at = g.op("Min", g.op("Max", at, np.zeros(len(axes), np.int64)), room[axes])
    inside = np.stack(np.meshgrid(*[np.arange(n) for n in sizes], indexing="ij"), axis=-1).reshape(
        1, -1, len(shape)
    )
    if inside.size * max(int(np.prod(batch)), 1) > MOST_PLACES:
        raise Refused(f"its windows of {sizes} at {int(np.prod(batch))} places are too many")
    spread = np.zeros((len(axes), len(shape)), np.int64)
    spread[np.arange(len(axes)), axes] = 1
    columns = []
    for axis in range(len(shape)):
        own = inside[..., axis : axis + 1].astype(np.int64)
        if axis in axes:
            part = g.op("Gather", at, np.array([axes.index(axis)], np.int64), axis=2)
            columns.append(g.op("Add", part, own))
        else:
            zeros = g.op("Mul", g.op("Gather", at, np.array([0], np.int64), axis=2), np.array(0, np.int64))
            columns.append(g.op("Add", zeros, own))
    return str(g.op("Concat", *columns, axis=2)), batch


@converts("STABLEHLO_GATHER", inputs=2, outputs=1)
def _gather(g: Writer, op: Operator) -> None:
    options, shape = op.options, g.tensor(op.inputs[0]).shape
    sizes = _listed(options.sliceSizes)
    axes, offsets = _listed(options.startIndexMap), _listed(options.offsetDims)
    collapsed = _listed(options.collapsedSliceDims)
    if len(sizes) != len(shape) or any(n > whole for n, whole in zip(sizes, shape, strict=True)) or not axes:
        raise Refused(f"its windows of {sizes} do not fit {list(shape)}")
    room = np.array(shape, np.int64) - np.array(sizes, np.int64)
    at, batch = _places(g, op.inputs[1], int(options.indexVectorDim), axes, shape, sizes, room)
    y = g.op("GatherND", g.get(op.inputs[0]), at)
    window = [n for axis, n in enumerate(sizes) if axis not in collapsed]
    rank = len(batch) + len(window)
    y = g.op("Reshape", y, np.array([*batch, *window], np.int64))
    before = [axis for axis in range(rank) if axis not in offsets]
    order = [before.index(a) if a in before else len(batch) + offsets.index(a) for a in range(rank)]
    g.put(op.outputs[0], g.op("Transpose", y, perm=order))


@converts("STABLEHLO_SCATTER", inputs=3, outputs=1)
def _scatter(g: Writer, op: Operator) -> None:
    """Windows combined with what is there; those that reach over an edge are left out as a whole."""
    options, shape = op.options, g.tensor(op.inputs[0]).shape
    number = int(options.updateComputationSubgraphIndex)
    body = g.model.graphs[number] if 0 <= number < len(g.model.graphs) else None
    kinds = [one.kind for one in body.operators] if body else ["?"]
    if len(kinds) > 1 or (kinds or [""])[0] not in REDUCTIONS:
        raise Refused(f"it combines by {', '.join(kinds)}")
    axes, windows = _listed(options.scatterDimsToOperandDims), _listed(options.updateWindowDims)
    inserted, given = _listed(options.insertedWindowDims), g.tensor(op.inputs[2]).shape
    kept = iter(given[axis] for axis in windows)
    sizes = [1 if axis in inserted else next(kept) for axis in range(len(shape))]
    if not axes:
        raise Refused("it has no indices")
    at, _ = _places(g, op.inputs[1], int(options.indexVectorDim), axes, shape, sizes, None)
    order = [axis for axis in range(len(given)) if axis not in windows] + windows
    entries = int(np.prod(sizes))
    updates = g.op("Transpose", g.get(op.inputs[2]), perm=order)
    updates = g.op("Reshape", updates, np.array([-1, entries], np.int64))
    # one row more at the end takes what is left out
    limits = np.array(shape, np.int64)
    fits = g.op("And", g.op("Less", at, limits), g.op("GreaterOrEqual", at, np.array(0, np.int64)))
    whole = g.op("ReduceMin", g.op("Cast", fits, to=6), np.array([1, 2], np.int64), keepdims=1)
    strides = np.array([int(np.prod(shape[axis + 1 :])) for axis in range(len(shape))], np.int64)
    flat = g.op("ReduceSum", g.op("Mul", at, strides), np.array([2], np.int64), keepdims=1)
    size = int(np.prod(shape))
    flat = g.op("Where", g.op("Cast", whole, to=9), flat, np.array(size, np.int64))
    operand = g.op("Reshape", g.get(op.inputs[0]), np.array([-1], np.int64))
    operand = g.op("Pad", operand, np.array([0, 1], np.int64))
    y = g.op("ScatterND", operand, flat, updates, reduction=REDUCTIONS[(kinds or [""])[0]])
    y = g.op("Slice", y, np.array([0], np.int64), np.array([size], np.int64), np.array([0], np.int64))
    g.put(op.outputs[0], g.op("Reshape", y, np.array(shape, np.int64)))
