"""Values picked and placed by indices."""

from __future__ import annotations

import numpy as np
from onnx import TensorProto

from edgec.compiler.frontends.tflite.elementwise import real_dtype
from edgec.compiler.frontends.tflite.flat import Operator
from edgec.compiler.frontends.tflite.graph import Array, Refused, Writer
from edgec.compiler.frontends.tflite.registry import converts
from edgec.compiler.frontends.tflite.shaping import moved


@converts("GATHER", inputs=2, outputs=1)
def _gather(g: Writer, op: Operator) -> None:
    rank, ranks = g.rank(op.inputs[0]), g.rank(op.inputs[1])
    axis, batch = op.options.axis % rank, getattr(op.options, "batchDims", 0)
    batch += ranks * (batch < 0)
    x, at = g.get(op.inputs[0]), g.get_int64(op.inputs[1])
    if not batch:
        moved(g, op, g.op("Gather", x, at, axis=axis))
        return
    if not 0 < batch <= min(axis, ranks):
        raise Refused(f"it has {batch} batch axes and gathers along axis {axis}")
    # the gathered axis behind the batch axes, then the axes between them back behind the indices
    order = [*range(batch), axis, *(k for k in range(batch, rank) if k != axis)]
    y = g.op("GatherND", g.op("Transpose", x, perm=order), g.op("Unsqueeze", at, _axis(-1)), batch_dims=batch)
    between, picked = axis - batch, ranks - batch
    back = [*range(batch), *range(batch + picked, batch + picked + between), *range(batch, batch + picked)]
    back += range(batch + picked + between, rank - 1 + picked)
    moved(g, op, g.op("Transpose", y, perm=back))


def _axis(number: int) -> Array:
    return np.array([number], np.int64)


@converts("GATHER_ND", inputs=2, outputs=1)
def _gather_nd(g: Writer, op: Operator) -> None:
    moved(g, op, g.op("GatherND", g.get(op.inputs[0]), g.get_int64(op.inputs[1])))


@converts("EMBEDDING_LOOKUP", inputs=2, outputs=1)
def _embedding_lookup(g: Writer, op: Operator) -> None:
    at = g.get_int64(op.inputs[0])
    g.put(op.outputs[0], g.op("Gather", g.get(op.inputs[1]), at, axis=0))


@converts("SCATTER_ND", inputs=3, outputs=1)
def _scatter_nd(g: Writer, op: Operator) -> None:
    """Zeros with values at indices; those of equal indices are added up."""
    kind = real_dtype(g.tensor(op.inputs[1]))
    zeros = g.op("Expand", np.zeros((), kind), g.get_int64(op.inputs[2]))
    y = g.op("ScatterND", zeros, g.get_int64(op.inputs[0]), g.get(op.inputs[1]), reduction="add")
    moved(g, op, y, 1)


@converts("SPARSE_TO_DENSE", inputs=4, outputs=1)
def _sparse_to_dense(g: Writer, op: Operator) -> None:
    rank = len(g.tensor(op.inputs[0]).shape)
    at = g.get_int64(op.inputs[0])
    if rank < 2:
        at = g.op("Reshape", at, np.array([-1, 1] if rank else [1, -1], np.int64))
    filling = g.op("Reshape", g.get(op.inputs[3]), np.zeros(0, np.int64))
    full = g.op("Expand", filling, g.get_int64(op.inputs[1]))
    rows = np.array([-1], np.int64) if not rank else np.array([g.tensor(op.inputs[0]).shape[0]], np.int64)
    values = g.get(op.inputs[2])
    if not g.rank(op.inputs[2]):
        values = g.op("Expand", values, rows if rank else _axis(1))
    g.put(op.outputs[0], g.op("ScatterND", full, at, values))


@converts("ONE_HOT", inputs=4, outputs=1)
def _one_hot(g: Writer, op: Operator) -> None:
    depth = np.array(g.ints(op.inputs[1]), np.int64).reshape(1)
    rank = g.rank(op.inputs[0])
    axis = op.options.axis % (rank + 1)
    places = g.op("Unsqueeze", g.get_int64(op.inputs[0]), _axis(axis))
    own = np.arange(int(depth[0]), dtype=np.int64).reshape([-1 if k == axis else 1 for k in range(rank + 1)])
    on, off = (g.op("Reshape", g.get(i), np.zeros(0, np.int64)) for i in op.inputs[2:4])
    g.put(op.outputs[0], g.op("Where", g.op("Equal", places, own), on, off))


@converts("BUCKETIZE", inputs=1, outputs=1)
def _bucketize(g: Writer, op: Operator) -> None:
    """How many boundaries each value reaches."""
    bounds = np.array(op.options.boundaries if op.options.boundaries is not None else [], np.float32)
    x = g.op("Cast", g.integers(op.inputs[0]), to=TensorProto.FLOAT)
    reached = g.op("GreaterOrEqual", g.op("Unsqueeze", x, _axis(-1)), bounds)
    count = g.op("ReduceSum", g.op("Cast", reached, to=TensorProto.INT32), _axis(-1), keepdims=0)
    g.put(op.outputs[0], count)


@converts("SEGMENT_SUM", inputs=2, outputs=1)
def _segment_sum(g: Writer, op: Operator) -> None:
    if not g.is_constant(op.inputs[1]):
        raise Refused("how many segments it has depends on its input")
    segments = g.ints(op.inputs[1])
    _reduce_segments(g, op, max(segments, default=-1) + 1, "add", 0)


@converts("UNSORTED_SEGMENT_SUM", "UNSORTED_SEGMENT_PROD", inputs=3, outputs=1)
@converts("UNSORTED_SEGMENT_MAX", "UNSORTED_SEGMENT_MIN", inputs=3, outputs=1)
def _unsorted_segments(g: Writer, op: Operator) -> None:
    kind = real_dtype(g.tensor(op.inputs[0]))
    info = np.iinfo(kind) if kind.startswith("int") else np.finfo(kind)
    how, start = {
        "SUM": ("add", 0),
        "PROD": ("mul", 1),
        "MAX": ("max", float(info.min)),
        "MIN": ("min", float(info.max)),
    }[op.kind.removeprefix("UNSORTED_SEGMENT_")]
    _reduce_segments(g, op, g.ints(op.inputs[2])[0], how, start)


def _reduce_segments(g: Writer, op: Operator, count: int, how: str, start: float) -> None:
    """Rows of equal segments combined; rows of negative segments are left out."""
    shape, depth = g.tensor(op.inputs[0]).shape, g.rank(op.inputs[1])
    rows = g.op("Reshape", g.get(op.inputs[0]), np.array([-1, *shape[depth:]], np.int64))
    segments = g.op("Reshape", g.get_int64(op.inputs[1]), np.array([-1, 1], np.int64))
    # one segment more at the end, for the rows that are left out
    at = g.op("Where", g.op("Less", segments, np.array(0)), np.array(count), segments)
    full = np.full((count + 1, *shape[depth:]), start, real_dtype(g.tensor(op.inputs[0])))
    y = g.op("ScatterND", full, at, rows, reduction=how)
    g.put(op.outputs[0], g.op("Slice", y, _axis(0), _axis(count), _axis(0)))


@converts("WHERE", inputs=1, outputs=1)
def _where(g: Writer, op: Operator) -> None:
    """The indices of what is not zero, `[count, axes]`."""
    g.put(op.outputs[0], g.op("Transpose", g.op("NonZero", g.get(op.inputs[0])), perm=[1, 0]))


@converts("UNIQUE", inputs=1, outputs=2)
def _unique(g: Writer, op: Operator) -> None:
    values, _, inverse, _ = g.op("Unique", g.get(op.inputs[0]), outputs=4, sorted=0)
    moved(g, op, values)
    wide = g.tensor(op.outputs[1]).dtype == "int64"
    g.put(op.outputs[1], inverse if wide else g.op("Cast", inverse, to=TensorProto.INT32))
