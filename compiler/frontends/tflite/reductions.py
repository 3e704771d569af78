"""Reductions, extremes and their indices, and cumulative sums."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from onnx import TensorProto

from edgec.compiler.frontends.tflite.flat import Operator
from edgec.compiler.frontends.tflite.graph import TO_NCHW, Writer
from edgec.compiler.frontends.tflite.registry import converts

REDUCTIONS = {
    "MEAN": "ReduceMean",
    "SUM": "ReduceSum",
    "REDUCE_MAX": "ReduceMax",
    "REDUCE_MIN": "ReduceMin",
    "REDUCE_PROD": "ReduceProd",
}


@converts(*REDUCTIONS, inputs=2, outputs=1)
def _reduce(g: Writer, op: Operator) -> None:
    index, rank = op.inputs[0], g.rank(op.inputs[0])
    axes = sorted(axis % rank for axis in g.ints(op.inputs[1]))
    keep = bool(op.options.keepDims)
    nchw = index in g.nchw and rank == 4 and (keep or axes == [1, 2])
    x = g.get_nchw(index) if nchw else g.get(index)
    along = sorted(TO_NCHW.index(axis) for axis in axes) if nchw else axes
    y = _reduction(g, REDUCTIONS[op.kind], x, along, keep=keep)
    g.put(op.outputs[0], y, nchw=nchw and keep, exact=_is_choice(op) and g.same_grid(index, op.outputs[0]))


def _is_choice(op: Operator) -> bool:
    return op.kind in ("REDUCE_MAX", "REDUCE_MIN")


def _reduction(g: Writer, kind: str, x: str, axes: Sequence[int], *, keep: bool) -> str:
    if not axes:
        return x
    return str(g.op(kind, x, np.array(axes, np.int64), keepdims=int(keep)))


@converts("REDUCE_ANY", "REDUCE_ALL", inputs=2, outputs=1)
def _reduce_bool(g: Writer, op: Operator) -> None:
    x = g.op("Cast", g.get(op.inputs[0]), to=TensorProto.INT32)
    kind = "ReduceMax" if op.kind == "REDUCE_ANY" else "ReduceMin"
    y = _reduction(g, kind, x, g.ints(op.inputs[1]), keep=bool(op.options.keepDims))
    g.put(op.outputs[0], g.op("Cast", y, to=TensorProto.BOOL))


@converts("ARG_MAX", "ARG_MIN", inputs=2, outputs=1)
def _arg(g: Writer, op: Operator) -> None:
    axis = g.ints(op.inputs[1])[0]
    kind = "ArgMax" if op.kind == "ARG_MAX" else "ArgMin"
    y = g.op(kind, g.get(op.inputs[0]), axis=axis, keepdims=0)
    wide = g.tensor(op.outputs[0]).dtype == "int64"
    g.put(op.outputs[0], y if wide else g.op("Cast", y, to=TensorProto.INT32))


@converts("TOPK_V2", inputs=2, outputs=2)
def _top_k(g: Writer, op: Operator) -> None:
    k = np.array(g.ints(op.inputs[1]), np.int64).reshape(1)
    values, indices = g.op("TopK", g.get(op.inputs[0]), k, outputs=2, axis=-1, largest=1, sorted=1)
    g.put(op.outputs[0], values, exact=g.same_grid(op.inputs[0], op.outputs[0]))
    g.put(op.outputs[1], g.op("Cast", indices, to=TensorProto.INT32))


@converts("CUMSUM", inputs=2, outputs=1)
def _cumsum(g: Writer, op: Operator) -> None:
    flags = {"exclusive": int(op.options.exclusive), "reverse": int(op.options.reverse)}
    g.put(op.outputs[0], g.op("CumSum", g.get(op.inputs[0]), g.get_int64(op.inputs[1]), **flags))
