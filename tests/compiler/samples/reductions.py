"""Reductions, softmax and its relatives, cumulative sums, sorting."""

from __future__ import annotations

from typing import Any

import numpy as np

from tests.compiler.samples import truths
from tests.compiler.samples.sample import FLOATS, Draw, Sample, family

REDUCTIONS = ("Max", "Min", "Sum", "Mean", "Prod", "LogSumExp", "LogSum", "SumSquare", "L1", "L2")


@family
def reduction(draw: Draw) -> Sample:
    kind = draw.pick(REDUCTIONS)
    op, dtype = f"Reduce{kind}", draw.pick((*FLOATS, "int32", "int64"))
    if kind in ("LogSumExp", "LogSum", "L2", "Mean") and dtype.startswith("int"):
        dtype = "float32"
    opset = draw.pick((11, 13, 18, 20))
    if kind in ("Max", "Min") and draw.chance(0.3):
        dtype = draw.pick(("int8", "uint8"))
        opset = max(opset, 13)
        if draw.chance(0.3):
            dtype, opset = "bool", 20
    x = draw.numbers(draw.shape(), dtype, draw.extremes())
    if kind == "LogSum":
        x = np.abs(x)
    attrs: dict[str, Any] = {"keepdims": draw.within(0, 1)} if draw.chance(0.8) else {}
    axes = draw.axes(x.ndim) if x.ndim and draw.chance(0.8) else None
    by_input = opset >= 18 or (kind == "Sum" and opset >= 13)
    if not by_input:
        return Sample(op, (x,), attrs | ({"axes": axes} if axes else {}), opset)
    if draw.chance(0.3):
        attrs["noop_with_empty_axes"] = 1
    if axes is None:
        empty = np.zeros(0, "int64") if draw.chance() else None
        return Sample(op, (x, empty), attrs, opset, frozenset({1}))
    return Sample(op, (x, np.asarray(axes, "int64")), attrs, opset, frozenset({1}))


@family
def arg_extreme(draw: Draw) -> Sample:
    dtype = draw.pick((*FLOATS, "int32", "int64", "uint8", "int8"))
    opset = draw.pick((11, 12, 13))
    x = draw.numbers(draw.shape(1), dtype, draw.extremes())
    if draw.chance() and x.dtype.kind != "f":
        x = np.clip(x, 0, 2)  # ties
    attrs: dict[str, Any] = {"keepdims": draw.within(0, 1)}
    if draw.chance(0.8):
        attrs["axis"] = draw.axis(x.ndim)
    if opset >= 12 and draw.chance():
        attrs["select_last_index"] = 1
    return Sample(draw.pick(("ArgMax", "ArgMin")), (x,), attrs, opset)


@family
def softmax(draw: Draw) -> Sample:
    op, opset = draw.pick(("Softmax", "LogSoftmax", "Hardmax")), draw.pick((1, 11, 13))
    x = draw.reals(draw.shape(1), draw.pick(FLOATS), 0.0 if op == "Hardmax" else draw.extremes())
    attrs = (
        {"axis": draw.within(0, x.ndim - 1) if opset < 11 else draw.axis(x.ndim)} if draw.chance(0.8) else {}
    )
    if "axis" not in attrs and opset < 13 and x.ndim < 2:
        attrs = {"axis": 0}
    truth = None
    if opset < 13:
        with np.errstate(all="ignore"):
            truth = (truths.old_softmax(op, x, attrs.get("axis", 1)),)
    return Sample(op, (x,), attrs, opset, truth=truth)


@family
def cumulative(draw: Draw) -> Sample:
    x = draw.numbers(draw.shape(1), draw.pick(("float32", "float64", "int32", "int64")), draw.extremes())
    attrs = {"exclusive": draw.within(0, 1), "reverse": draw.within(0, 1)}
    axis = np.asarray(draw.axis(x.ndim), draw.pick(("int32", "int64")))
    op, opset = draw.pick((("CumSum", 14), ("CumProd", 26)))
    return Sample(op, (x, axis), attrs, opset, frozenset({1}))


@family
def top_k(draw: Draw) -> Sample:
    shape = draw.shape(1)
    axis = draw.axis(len(shape))
    values = draw.rng.permutation(int(np.prod(shape))).reshape(shape)  # without ties, whose order is open
    x = values.astype(draw.pick((*FLOATS, "int32", "int64")))
    attrs = {"axis": axis, "largest": draw.within(0, 1), "sorted": 1}
    count = np.asarray([draw.within(1, shape[axis])], "int64")
    return Sample("TopK", (x, count), attrs, 11, frozenset({1}), outputs=2)


@family
def norm(draw: Draw) -> Sample:
    x = draw.reals(draw.shape(1), draw.pick(FLOATS), draw.extremes())
    axis, p = draw.axis(x.ndim), draw.within(1, 2)
    with np.errstate(all="ignore"):
        truth = truths.normalised(x, axis, p)
    return Sample("LpNormalization", (x,), {"axis": axis, "p": p}, truth=(truth,))
