"""Calls on scalars and on tensors without elements, with results that have none."""

from __future__ import annotations

from typing import Any

import numpy as np

from tests.compiler.samples.sample import Array, Draw, Sample, family


def odd_shape(draw: Draw, low: int = 0, high: int = 4) -> list[int]:
    """A shape, often with sizes of 0 or 1."""
    return [draw.pick((0, 0, 1, 2, 3)) for _ in range(draw.within(low, high))]


def ints(*values: int) -> Array:
    return np.asarray(values, "int64")


@family
def odd_elementwise(draw: Draw) -> Sample:
    op = draw.pick(("Relu", "Exp", "Neg", "Abs", "Sigmoid", "Sign", "Softplus", "Erf", "Floor", "Identity"))
    return Sample(op, (draw.reals(odd_shape(draw)),), {}, 13)


@family
def odd_broadcast(draw: Draw) -> Sample:
    op = draw.pick(("Add", "Mul", "Div", "Sub", "Max", "Min", "Where", "Equal", "Less", "Pow"))
    shape = odd_shape(draw)
    other = [1 if draw.chance(0.3) else n for n in shape[draw.within(0, len(shape)) :]]
    x, y = draw.reals(shape), draw.reals(other)
    if op == "Pow":
        x = np.abs(x)
    if op == "Where":
        return Sample(op, (draw.numbers(shape, "bool"), x, y), {}, 16)
    inputs = (x, y) if draw.chance() else (y, x)
    return Sample(op, (np.abs(inputs[0]), inputs[1]) if op == "Pow" else inputs, {}, 13)


@family
def odd_reduction(draw: Draw) -> Sample:
    op = draw.pick(
        ("ReduceSum", "ReduceProd", "ReduceMax", "ReduceMin", "ReduceL1", "ReduceL2", "ReduceSumSquare")
    )
    x = draw.reals(odd_shape(draw))
    attrs: dict[str, Any] = {"keepdims": draw.within(0, 1)}
    if op in ("ReduceSum", "ReduceProd", "ReduceMax", "ReduceMin"):  # the evaluator takes squares, too
        attrs["noop_with_empty_axes"] = draw.within(0, 1)
    if x.ndim and draw.chance(0.7):
        return Sample(op, (x, ints(*draw.axes(x.ndim))), attrs, 20, frozenset({1}))
    return Sample(op, (x, ints()) if draw.chance() else (x,), attrs, 20, frozenset({1}))


@family
def odd_move(draw: Draw) -> Sample:
    op = draw.pick(
        ("Transpose", "Flatten", "Concat", "Unsqueeze", "Squeeze", "Tile", "Expand", "Shape", "Size")
    )
    shape = odd_shape(draw)
    x = draw.reals(shape)
    if op == "Transpose":
        return Sample(
            op, (x,), {"perm": [int(a) for a in draw.rng.permutation(x.ndim)]} if x.ndim else {}, 13
        )
    if op == "Flatten":
        axis = draw.within(-x.ndim, x.ndim)
        sizes = [int(np.prod(part)) for part in (x.shape[:axis], x.shape[axis:])]
        return Sample(op, (x,), {"axis": axis}, 13, truth=(x.reshape(sizes),))
    if op == "Concat":
        shape = shape or [2]
        axis = draw.axis(len(shape))
        parts = []
        for _ in range(draw.within(1, 3)):
            own = list(shape)
            own[axis] = draw.pick((0, 1, 2))
            parts.append(draw.reals(own))
        return Sample(op, tuple(parts), {"axis": axis}, 13)
    if op == "Unsqueeze":
        return Sample(op, (x, ints(draw.within(-x.ndim - 1, x.ndim))), {}, 13, frozenset({1}))
    if op == "Squeeze":
        return Sample(op, (x,), {}, 13)
    if op == "Tile":
        repeats = draw.many(x.ndim, 0, 2)
        return Sample(op, (x, ints(*repeats)), {}, 13, frozenset({draw.pick((1, 9))}))
    if op == "Expand":
        to = [*draw.many(draw.within(0, 2), 0, 2), *(n if n != 1 else draw.pick((0, 1, 3)) for n in x.shape)]
        return Sample(op, (x, ints(*to)), {}, 13, frozenset({1}))
    return Sample(op, (x,), {}, 13)


@family
def odd_reshape(draw: Draw) -> Sample:
    x = draw.reals([0, *odd_shape(draw, 0, 3)])
    to, zero = odd_shape(draw, 0, 3), draw.chance()
    if zero:
        to.insert(draw.within(0, len(to)), 0)
        return Sample("Reshape", (x, ints(*to)), {"allowzero": 1}, 14, frozenset({1}))
    x = draw.reals([draw.within(1, 2), 0, 3])
    return Sample(
        "Reshape", (x, ints(*draw.pick(((0, 0, 3), (0, 0, 1, 3), (0, 0, 0))))), {}, 14, frozenset({1})
    )


@family
def odd_part(draw: Draw) -> Sample:
    x = draw.reals([*draw.many(draw.within(1, 3), 0, 4)])
    axis, n = draw.axis(x.ndim), 0
    n = x.shape[axis]
    begin, end = draw.within(-n - 2, n + 2), draw.within(-n - 2, n + 2)
    inputs = (x, ints(begin), ints(end), ints(axis), ints(draw.pick((1, 1, 2, -1, -2))))
    return Sample("Slice", inputs, {}, 13, frozenset(draw.pick(((1, 2, 3, 4), (3, 4), (3,)))))


@family
def odd_index(draw: Draw) -> Sample:
    op = draw.pick(
        ("Gather", "GatherElements", "GatherND", "ScatterND", "ScatterElements", "OneHot", "Compress")
    )
    shape = draw.many(draw.within(1, 3), 1, 3)
    x = draw.reals(shape)
    if op == "Gather":
        axis = draw.axis(x.ndim)
        where = draw.integers(odd_shape(draw, 0, 2), "int64", -x.shape[axis], x.shape[axis] - 1)
        return Sample(op, (x, where), {"axis": axis}, 13, frozenset({draw.pick((1, 9))}))
    if op == "OneHot":
        where = draw.integers(odd_shape(draw, 0, 2), "int64", -3, 2)
        return Sample(op, (where, np.asarray(3), draw.reals([2])), {"axis": -1}, 11, frozenset({1}))
    if op == "Compress":
        return Sample(op, (x, np.zeros(draw.within(1, x.shape[0]), "bool")), {"axis": 0}, 11)
    if op in ("GatherND", "ScatterND"):
        depth = draw.within(1, x.ndim)
        head = odd_shape(draw, 1, 2)
        where = np.zeros((*head, depth), "int64")
        if op == "GatherND":
            return Sample(op, (x, where), {}, 13)
        if int(np.prod(head)) > 1:
            where = where[:0] if len(head) == 1 else where[:0, :1]
        return Sample(op, (x, where, draw.reals([*where.shape[:-1], *x.shape[depth:]])), {}, 18)
    own = list(shape)
    own[0] = draw.pick((0, 1))
    where = np.zeros(own, "int64")
    if op == "GatherElements":
        return Sample(op, (x, where), {"axis": 0}, 13, truth=(x[:1][: own[0]],))
    return Sample(op, (x, where, draw.reals(own)), {"axis": 0}, 18)


@family
def odd_product(draw: Draw) -> Sample:
    op = draw.pick(("MatMul", "Gemm", "Einsum"))
    m, k, n = (draw.pick((0, 1, 2, 5)) for _ in range(3))
    if op == "Gemm":
        c = draw.reals([n]) if draw.chance() else None
        return Sample(op, (draw.reals([m, k]), draw.reals([k, n]), c), {}, 13)
    if op == "Einsum":
        return Sample(op, (draw.reals([m, k]), draw.reals([k, n])), {"equation": "ij,jk->ik"}, 12)
    batch = odd_shape(draw, 0, 2)
    a = draw.reals([*batch, m, k] if draw.chance(0.8) else [k])
    b = draw.reals([k, n] if draw.chance() else [*batch, k, n])
    return Sample(op, (a, b), {}, 13)


@family
def odd_row(draw: Draw) -> Sample:
    """Operators along an axis, of rows without elements or of no rows."""
    op = draw.pick(
        ("Softmax", "LogSoftmax", "CumSum", "LayerNormalization", "ArgMax", "TopK", "Split", "Hardmax")
    )
    shape = [draw.pick((0, 1, 2)), draw.pick((1, 2, 3)), draw.pick((0, 1, 3))]
    axis = draw.pick((1, -2))
    x = draw.reals(shape)
    if op == "CumSum":
        return Sample(op, (x, np.asarray(axis)), {"reverse": draw.within(0, 1)}, 14, frozenset({1}))
    if op == "LayerNormalization":
        return Sample(op, (x[..., None], np.ones(1, "float32")), {"axis": -1}, 17)
    if op == "ArgMax":
        return Sample(op, (x,), {"axis": axis, "keepdims": draw.within(0, 1)}, 13)
    if op == "TopK":
        count = draw.within(0, shape[1])
        order = np.argsort(-x, 1, kind="stable")
        places = np.take(order, np.arange(count), 1)
        truth = (np.take_along_axis(x, places, 1), places)
        return Sample(op, (x, ints(count)), {"axis": axis}, 11, frozenset({1}), 2, kinds=(0, 7), truth=truth)
    if op == "Split":
        cut = draw.within(0, shape[1])
        return Sample(op, (x, ints(cut, shape[1] - cut)), {"axis": axis}, 13, frozenset({1}), 2)
    return Sample(op, (x,), {"axis": axis}, 13)


@family
def odd_image(draw: Draw) -> Sample:
    """Layers on no images."""
    op = draw.pick(("Conv", "MaxPool", "AveragePool", "GlobalAveragePool", "BatchNormalization", "Pad"))
    x = draw.reals([draw.pick((0, 1)), 2, 4, 4])
    if op == "Conv":
        return Sample(op, (x, draw.reals([3, 2, 3, 3])), {}, 11)
    if op in ("MaxPool", "AveragePool"):
        return Sample(op, (x,), {"kernel_shape": [2, 2]}, 11)
    if op == "BatchNormalization":
        return Sample(op, (x, *(np.abs(draw.reals([2])) for _ in range(4))), {}, 15)
    if op == "Pad":
        return Sample(op, (x, ints(draw.within(0, 1), 0, 0, 1, 0, 0, 1, 0)), {}, 13, frozenset({1}))
    return Sample(op, (x,), {}, 11)


@family
def odd_range(draw: Draw) -> Sample:
    start, end = draw.within(-3, 3), draw.within(-3, 3)
    step = draw.pick((1, 2, -1, -2))
    dtype = draw.pick(("int64", "int32", "float32"))
    inputs = tuple(np.asarray(v, dtype) for v in (start, end, step))
    return Sample("Range", inputs, {}, 11, frozenset(draw.pick(((), (2,), (0, 1, 2)))))
