"""Steps of random graphs: each takes values that are there and adds a node or a few."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from onnx import helper

from tests.compiler.random_graphs.drawing import Drawing, Rejected
from tests.compiler.samples.sample import Array

Step = Callable[[Drawing], None]
STEPS: dict[str, Step] = {}
FLOATING = ("float32", "float32", "float32", "float16", "float64")


def step(function: Step) -> Step:
    """Register a step under its name."""
    STEPS[function.__name__] = function
    return function


def is_float(value: Array) -> bool:
    """Whether these are real numbers."""
    return value.dtype.kind == "f"


def is_single(value: Array) -> bool:
    """Whether these are fp32."""
    return value.dtype == np.float32


def is_integer(value: Array) -> bool:
    """Whether these are integers of 32 or 64 bits, which most operators take."""
    return value.dtype in (np.int32, np.int64)


def of_rank(low: int, high: int = 9, kind: Callable[[Array], bool] = is_float) -> Callable[[Array], bool]:
    """Whether a value has so many axes and no empty one."""
    return lambda value: low <= value.ndim <= high and value.size > 0 and kind(value)


def axes_of(g: Drawing, op: str, x: str, axes: list[int], since: int, **attrs: Any) -> str:
    """A node whose axes are an input since an operator set, and an attribute before."""
    if g.opset >= since:
        return g.one(op, [x, g.constant(axes, "int64")], **attrs)
    return g.one(op, [x], axes=axes, **attrs)


@step
def unary(g: Drawing) -> None:
    op = g.draw.pick(
        ("Abs", "Ceil", "Cos", "Elu", "Erf", "Exp", "Floor", "HardSigmoid", "LeakyRelu", "Log", "Neg", "Reciprocal",
         "Relu", "Relu", "Round", "Selu", "Sigmoid", "Sigmoid", "Sign", "Sin", "Softplus", "Softsign", "Sqrt", "Tanh",
         "HardSwish", "ThresholdedRelu", "Mish", "Gelu", "Not", "IsNaN", "Celu", "Identity", "Atan", "Cosh")
    )  # fmt: skip
    if {"HardSwish": 14, "Mish": 18, "Gelu": 20}.get(op, 0) > g.opset:
        raise Rejected
    x = g.pick((lambda v: v.dtype == bool) if op == "Not" else is_single if op == "Celu" else is_float)
    g.add(
        op,
        [x],
        **({"alpha": 0.3} if op in ("Elu", "LeakyRelu", "ThresholdedRelu") and g.draw.chance() else {}),
    )


@step
def gated(g: Drawing) -> None:
    """x times an activation of it, as exporters write Swish, HardSwish and GELU."""
    x = g.pick(is_single)
    kind = g.draw.pick(("swish", "hard", "gelu", "mish"))
    if kind == "swish":
        gate = g.one("Sigmoid", [x])
    elif kind == "hard":
        moved = g.one("Add", [x, g.constant(3.0, "float32")])
        gate = g.one("Clip", [moved, g.constant(0.0, "float32"), g.constant(6.0, "float32")])
        gate = g.one("Div", [gate, g.constant(6.0, "float32")])
    elif kind == "gelu":
        inner = g.one("Erf", [g.one("Div", [x, g.constant(1.4142135, "float32")])])
        gate = g.one("Mul", [g.one("Add", [inner, g.constant(1.0, "float32")]), g.constant(0.5, "float32")])
    else:
        gate = g.one("Tanh", [g.one("Softplus", [x])])
    g.add("Mul", [x, gate] if g.draw.chance() else [gate, x])


@step
def binary(g: Drawing) -> None:
    x = g.pick(lambda v: v.dtype.kind == "f" or v.dtype in (np.int32, np.int64))
    value = g.values[x]
    op = g.draw.pick(("Add", "Add", "Mul", "Mul", "Sub", "Div", "Max", "Min", "PRelu", "Mean"))
    if value.dtype.kind == "i" and op in ("PRelu", "Mean", "Div"):
        raise Rejected
    same = [
        n for n, v in g.values.items()
        if n != x and not n.startswith("k") and v.dtype == value.dtype and _broadcast(v.shape, value.shape)
    ]  # fmt: skip
    if same and g.draw.chance(0.6):
        other = g.draw.pick(same)
    else:
        shape = [1 if g.draw.chance(0.4) else n for n in value.shape[g.draw.within(0, value.ndim) :]]
        if value.dtype.kind == "i":
            array = g.draw.rng.integers(-4, 5, shape).astype(value.dtype)
        else:
            array = g.draw.rng.uniform(0.5, 2, shape).astype(value.dtype)
        other = g.either(array)
    if op == "PRelu" and not _broadcast_to(g.values[other].shape, value.shape):
        raise Rejected
    g.add(op, [x, other] if op == "PRelu" or g.draw.chance() else [other, x])


def _broadcast(one: tuple[int, ...], other: tuple[int, ...]) -> bool:
    try:
        np.broadcast_shapes(one, other)
    except ValueError:
        return False
    return True


def _broadcast_to(one: tuple[int, ...], other: tuple[int, ...]) -> bool:
    return _broadcast(one, other) and np.broadcast_shapes(one, other) == other


@step
def integers(g: Drawing) -> None:
    x = g.pick(is_integer)
    value = g.values[x]
    op = g.draw.pick(("Div", "Mod", "Abs", "Neg", "Sign", "Cast", "Equal", "Less", "Clip"))
    if op in ("Abs", "Neg", "Sign"):
        g.add(op, [x])
    elif op == "Cast":
        to = g.draw.pick(("float32", "float32", "int32", "int64", "bool", "uint8", "int8", "float16"))
        g.add(op, [x], to=helper.np_dtype_to_tensor_dtype(np.dtype(to)))
    elif op == "Clip":
        if g.opset < 12:
            raise Rejected
        g.add(op, [x, g.constant(-2, value.dtype.name), g.constant(3, value.dtype.name)])
    else:
        g.add(op, [x, g.either(g.draw.pick((2, 3, 5, -3) if op == "Mod" else (2, 3, 5)), value.dtype.name)])


@step
def truths(g: Drawing) -> None:
    """A comparison, and a choice or a number made of it."""
    x = g.pick(is_float)
    value = g.values[x]
    op = g.draw.pick(("Greater", "Less", "GreaterOrEqual", "LessOrEqual", "Equal"))
    if op.endswith("OrEqual") and g.opset < 12:
        raise Rejected
    level = float(np.median(value)) if value.size and g.draw.chance() else 0.25
    made = g.one(op, [x, g.constant(level, value.dtype.name)])
    if g.draw.chance(0.4):
        made = g.one(g.draw.pick(("And", "Or", "Xor")), [made, g.one("Not", [made])])
    if g.draw.chance():
        g.add("Cast", [made], to=helper.np_dtype_to_tensor_dtype(value.dtype))
    else:
        g.add("Where", [made, x, g.either(np.asarray(g.draw.within(-2, 2), value.dtype))])


@step
def clip(g: Drawing) -> None:
    x = g.pick(is_float)
    dtype = g.values[x].dtype.name
    low, high = g.constant(-0.5, dtype), g.constant(1.25, dtype)
    g.add("Clip", [x, *g.draw.pick(([low, high], [low], ["", high]))])


@step
def cast(g: Drawing) -> None:
    x = g.pick(lambda v: v.dtype.kind in "fb")
    to = g.draw.pick(("float16", "float32", "float32", "float64", "int32", "int64", "bool", "int8", "uint8"))
    if g.values[x].dtype.kind == "f" and to == "uint8" and g.values[x].min(initial=0) < 0:
        raise Rejected
    g.add("Cast", [x], to=helper.np_dtype_to_tensor_dtype(np.dtype(to)))


@step
def quantised(g: Drawing) -> None:
    """There and back, as quantised models do around every operator."""
    x = g.pick(is_single)
    value = g.values[x]
    scale = max(float(np.abs(value).max(initial=0.0)), 0.1) / 100
    kind = g.draw.pick(("int8", "uint8"))
    parts = [
        g.constant(scale, "float32"),
        g.constant(g.draw.within(0, 9) + (100 if kind == "uint8" else 0), kind),
    ]
    g.add("DequantizeLinear", [g.one("QuantizeLinear", [x, *parts]), *parts])


@step
def reduction(g: Drawing) -> None:
    op = g.draw.pick(
        ("ReduceSum", "ReduceMean", "ReduceMean", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceL1", "ReduceL2",
         "ReduceSumSquare", "ReduceLogSumExp")
    )  # fmt: skip
    exact = op in ("ReduceSum", "ReduceMax", "ReduceMin", "ReduceProd")
    x = g.pick(of_rank(1, kind=(lambda v: is_float(v) or is_integer(v)) if exact else is_float))
    axes, since = g.draw.axes(g.values[x].ndim), 13 if op == "ReduceSum" else 18
    if g.draw.chance(0.15):
        g.add(op, [x], keepdims=g.draw.within(0, 1))
    else:
        axes_of(g, op, x, axes, since, keepdims=g.draw.within(0, 1))


@step
def along(g: Drawing) -> None:
    """Softmax and others along an axis."""
    op = g.draw.pick(
        (
            "Softmax",
            "Softmax",
            "LogSoftmax",
            "Hardmax",
            "CumSum",
            "ArgMax",
            "ArgMin",
            "TopK",
            "LpNormalization",
        )
    )
    x = g.pick(of_rank(1, kind=is_single))
    value = g.values[x]
    axis = g.draw.axis(value.ndim)
    if op in ("Softmax", "LogSoftmax", "Hardmax") and g.opset < 13:
        raise Rejected  # the evaluator takes the later meaning
    if op == "CumSum":
        g.add(op, [x, g.constant(axis, "int64")], exclusive=g.draw.within(0, 1), reverse=g.draw.within(0, 1))
    elif op in ("ArgMax", "ArgMin"):
        g.add(op, [x], axis=axis, keepdims=g.draw.within(0, 1))
    elif op == "TopK":
        count = g.constant([g.draw.within(1, value.shape[axis])], "int64")
        g.add(op, [x, count], 2, axis=axis, largest=g.draw.within(0, 1))
    else:
        g.add(op, [x], axis=axis)


@step
def moved(g: Drawing) -> None:
    """Elements in another order or under another shape."""
    op = g.draw.pick(("Transpose", "Transpose", "Flatten", "Unsqueeze", "Squeeze", "Tile", "Expand"))
    x = g.pick(of_rank(1, 5, lambda v: v.dtype.kind in "fib"))
    value = g.values[x]
    if op == "Transpose":
        g.add(
            op,
            [x],
            **({"perm": [int(a) for a in g.draw.rng.permutation(value.ndim)]} if g.draw.chance(0.8) else {}),
        )
    elif op == "Flatten":
        g.add(op, [x], axis=g.draw.within(0, value.ndim))
    elif op == "Unsqueeze":
        axes_of(g, op, x, [g.draw.within(0, value.ndim)], 13)
    elif op == "Squeeze":
        ones = [a for a, n in enumerate(value.shape) if n == 1]
        if not ones:
            raise Rejected
        axes_of(g, op, x, [g.draw.pick(ones)], 13)
    elif op == "Tile":
        g.add(op, [x, g.either(g.draw.many(value.ndim, 1, 2), "int64")])
    else:
        shape = [
            *g.draw.many(g.draw.within(0, 1), 1, 2),
            *(g.draw.within(1, 3) if n == 1 else n for n in value.shape),
        ]
        g.add(op, [x, g.either(shape, "int64")])


@step
def reshaped(g: Drawing) -> None:
    """Reshape to constant sizes, or to sizes made of those of the value."""
    x = g.pick(of_rank(1, 5, lambda v: v.dtype.kind in "fib"))
    value = g.values[x]
    if g.draw.chance(0.3) and value.ndim > 1:
        sizes = g.one("Shape", [x])
        axis = g.draw.within(0, value.ndim - 1)
        kept = g.one("Gather", [sizes, g.constant([axis], "int64")])
        parts = [kept, g.constant([-1], "int64")]
        g.add("Reshape", [x, g.one("Concat", parts if g.draw.chance() else parts[::-1], axis=0)])
        return
    shape, rest = [], value.size
    for _ in range(g.draw.within(0, 3)):
        divisors = [d for d in range(1, rest + 1) if rest % d == 0][:12]
        shape.append(g.draw.pick(divisors))
        rest //= shape[-1]
    shape.insert(g.draw.within(0, len(shape)), rest)
    if g.draw.chance(0.4):
        shape[g.draw.within(0, len(shape) - 1)] = -1
    g.add("Reshape", [x, g.either(shape, "int64")])


@step
def joined(g: Drawing) -> None:
    x = g.pick(of_rank(1, 5, lambda v: v.dtype.kind in "fi"))
    value = g.values[x]
    axis = g.draw.within(0, value.ndim - 1)
    fitting = [
        n for n, v in g.values.items()
        if v.dtype == value.dtype and v.ndim == value.ndim
        and all(a == b for i, (a, b) in enumerate(zip(v.shape, value.shape, strict=True)) if i != axis)
    ]  # fmt: skip
    parts = [x, *(g.draw.pick(fitting) for _ in range(g.draw.within(0, 2)))]
    g.add("Concat", parts, axis=axis - (value.ndim if g.draw.chance(0.3) else 0))


@step
def parted(g: Drawing) -> None:
    x = g.pick(of_rank(1, 5, lambda v: v.dtype.kind in "fi"))
    value = g.values[x]
    axis = g.draw.axis(value.ndim)
    size = value.shape[axis]
    if g.draw.chance(0.4) and size > 1:
        cut = g.draw.within(1, size - 1)
        if g.opset < 13:
            g.add("Split", [x], 2, axis=axis, split=[cut, size - cut])
        else:
            g.add("Split", [x, g.constant([cut, size - cut], "int64")], 2, axis=axis)
        return
    begin, end = g.draw.within(-size, size - 1), g.draw.pick((size, 2**40, -1, g.draw.within(-size, size)))
    numbers = [[begin], [end], [axis], [g.draw.pick((1, 1, 1, 2, -1))]]
    g.add("Slice", [x, *(g.either(n, "int64") for n in numbers)])


@step
def gathered(g: Drawing) -> None:
    op = g.draw.pick(
        ("Gather", "Gather", "GatherElements", "GatherND", "ScatterND", "ScatterElements", "OneHot", "Trilu")
    )
    x = g.pick(of_rank(1, 5, lambda v: v.dtype.kind in "fi"))
    value = g.values[x]
    axis = g.draw.axis(value.ndim)
    size = value.shape[axis]
    if op == "Gather":
        shape = g.draw.many(g.draw.within(0, 2), 1, 3)
        g.add(
            op,
            [x, g.either(g.draw.rng.integers(-size, size, shape), g.draw.pick(("int32", "int64")))],
            axis=axis,
        )
    elif op in ("GatherElements", "ScatterElements"):
        shape = [g.draw.within(1, n) for n in value.shape]
        where = g.draw.rng.integers(0, size, shape)
        if op == "GatherElements":
            g.add(op, [x, g.either(where, "int64")], axis=axis)
            return
        where = np.broadcast_to(
            np.arange(shape[axis]).reshape([-1 if a == axis % value.ndim else 1 for a in range(value.ndim)]),
            shape,
        )
        g.add(
            op, [x, g.either(where, "int64"), g.constant(g.draw.numbers(shape, value.dtype.name))], axis=axis
        )
    elif op in ("GatherND", "ScatterND"):
        depth = g.draw.within(1, value.ndim)
        rows = g.draw.within(1, 3)
        where = np.stack([g.draw.rng.integers(0, n, rows) for n in value.shape[:depth]], -1)
        if op == "GatherND":
            g.add(op, [x, g.either(where, "int64")])
        else:
            where = np.unique(where, axis=0)
            updates = g.constant(g.draw.numbers([len(where), *value.shape[depth:]], value.dtype.name))
            g.add(op, [x, g.either(where, "int64"), updates])
    elif op == "Trilu":
        if value.ndim < 2 or g.opset < 14:
            raise Rejected
        g.add(op, [x, g.constant(g.draw.within(-1, 1), "int64")], upper=g.draw.within(0, 1))
    else:
        chosen = g.pick(of_rank(0, 3, is_integer))
        g.add(
            op, [chosen, g.constant(g.draw.within(2, 5), "int64"), g.constant([0.0, 1.5], "float32")], axis=-1
        )


@step
def padded(g: Drawing) -> None:
    x = g.pick(of_rank(1, 4))
    value = g.values[x]
    mode = g.draw.pick(("constant", "constant", "edge", "reflect"))
    pads = [g.draw.within(0, 2 if mode == "constant" else min(2, n - 1)) for n in value.shape * 2]
    if mode == "constant" and g.draw.chance(0.3):
        pads = [-1 if n > 3 and g.draw.chance(0.3) else p for p, n in zip(pads, value.shape * 2, strict=True)]
    parts = [x, g.either(pads, "int64")]
    if mode == "constant" and g.draw.chance():
        parts.append(g.constant(g.draw.within(-1, 1), value.dtype.name))
    g.add("Pad", parts, mode=mode)


@step
def counted(g: Drawing) -> None:
    """As many rows as the values say."""
    x = g.pick(of_rank(1, 3, is_single))
    value = g.values[x]
    positive = g.one("Greater", [x, g.constant(0.0, "float32")])
    if g.draw.chance():
        places = g.one("NonZero", [positive])
        g.add("GatherND", [x, g.one("Transpose", [places], perm=[1, 0])])
    else:
        flat = g.one("Reshape", [positive, g.constant([-1], "int64")])
        g.add("Compress", [x, flat])
    if value.ndim > 1 and g.draw.chance(0.2):
        g.add("Shape", [x])
