"""Element-wise operators: one input, two with broadcasting, several; casts."""

from __future__ import annotations

import numpy as np
from onnx import helper

from tests.compiler.samples.sample import FLOATS, INTEGERS, Draw, Sample, family

UNARY = (
    "Abs", "Acos", "Acosh", "Asin", "Asinh", "Atan", "Atanh", "Ceil", "Cos", "Cosh", "Elu", "Erf", "Exp", "Floor",
    "HardSigmoid", "HardSwish", "LeakyRelu", "Log", "Mish", "Neg", "Reciprocal", "Relu", "Round", "Selu", "Sigmoid",
    "Sign", "Sin", "Sinh", "Softplus", "Softsign", "Sqrt", "Tan", "Tanh", "ThresholdedRelu", "Celu", "Gelu", "Shrink",
    "IsNaN", "IsInf", "Identity",
)  # fmt: skip
ATTRIBUTES = {
    "Elu": {"alpha": 1.5},
    "HardSigmoid": {"alpha": 0.3, "beta": 0.4},
    "LeakyRelu": {"alpha": 0.3},
    "Selu": {"alpha": 1.5, "gamma": 1.2},
    "ThresholdedRelu": {"alpha": -0.5},
    "Celu": {"alpha": 2.0},
    "Shrink": {"lambd": 1.0, "bias": 0.25},
}
ONLY_FLOAT32 = ("Celu",)


@family
def unary(draw: Draw) -> Sample:
    op = draw.pick(UNARY)
    dtype = "float32" if op in ONLY_FLOAT32 else draw.pick(FLOATS)
    attrs = dict(ATTRIBUTES.get(op, {})) if draw.chance() else {}
    if op == "Gelu" and draw.chance():
        attrs = {"approximate": "tanh"}
    if op == "IsInf":
        attrs = {"detect_negative": draw.within(0, 1), "detect_positive": draw.within(0, 1)}
    return Sample(op, (draw.reals(draw.shape(), dtype, draw.extremes()),), attrs)


@family
def unary_of_integers(draw: Draw) -> Sample:
    op = draw.pick(("Abs", "Neg", "Sign", "Relu", "BitwiseNot", "Identity"))
    dtype = draw.pick(INTEGERS)
    if op in ("Neg", "Relu"):
        dtype = draw.pick(("int32", "int64", "int8", "int16"))
    return Sample(op, (draw.integers(draw.shape(), dtype),))


def broadcastable(draw: Draw) -> tuple[list[int], list[int]]:
    """Two shapes that broadcast to one."""
    whole = draw.shape()

    def part() -> list[int]:
        kept = whole[draw.within(0, len(whole)) if draw.chance(0.3) else 0 :]
        return [1 if draw.chance(0.25) else size for size in kept]

    return part(), part()


@family
def binary(draw: Draw) -> Sample:
    op = draw.pick(
        ("Add", "Sub", "Mul", "Div", "Pow", "Greater", "Less", "Equal", "GreaterOrEqual", "LessOrEqual")
    )
    dtype = draw.pick((*FLOATS, "int32", "int64"))
    if op == "Equal" and draw.chance(0.3):
        dtype = "bool"
    one, other = broadcastable(draw)
    special = draw.extremes()
    a, b = draw.numbers(one, dtype, special), draw.numbers(other, dtype, special)
    if op == "Pow":
        b = draw.numbers(other, draw.pick((*FLOATS, "int32", "int64")))
        if a.dtype.kind == "i":
            a, b = np.clip(a, 1, 4).astype(a.dtype), np.abs(b)
    fixed = frozenset({1}) if draw.chance(0.3) else frozenset({0}) if draw.chance(0.2) else frozenset[int]()
    return Sample(op, (a, b), fixed=fixed)


@family
def binary_of_integers(draw: Draw) -> Sample:
    op = draw.pick(("Add", "Sub", "Mul", "Div", "BitwiseAnd", "BitwiseOr", "BitwiseXor", "Mod"))
    dtype = draw.pick(INTEGERS)
    one, other = broadcastable(draw)
    a, b = draw.integers(one, dtype), draw.integers(other, dtype)
    if op in ("Div", "Mod"):
        b = np.where((b == 0) | (b == -1 if b.dtype.kind == "i" else False), 3, b).astype(dtype)
    attrs = {"fmod": draw.within(0, 1)} if op == "Mod" else {}
    return Sample(op, (a, b), attrs, fixed=frozenset({1}) if draw.chance(0.2) else frozenset())


@family
def modulo(draw: Draw) -> Sample:
    one, other = broadcastable(draw)
    dtype = draw.pick(FLOATS)
    special = draw.extremes()
    a, b = draw.reals(one, dtype, special), draw.reals(other, dtype, special)
    return Sample("Mod", (a, b), {"fmod": 1})


@family
def logic(draw: Draw) -> Sample:
    op = draw.pick(("And", "Or", "Xor", "Not"))
    one, other = broadcastable(draw)
    a, b = draw.numbers(one, "bool"), draw.numbers(other, "bool")
    return Sample(op, (a,) if op == "Not" else (a, b))


@family
def shifts(draw: Draw) -> Sample:
    one, other = broadcastable(draw)
    dtype = draw.pick(("uint8", "uint16", "uint32", "uint64"))
    a, b = draw.integers(one, dtype), draw.integers(other, dtype, 0, 7)
    return Sample("BitShift", (a, b), {"direction": draw.pick(("LEFT", "RIGHT"))})


@family
def several(draw: Draw) -> Sample:
    op = draw.pick(("Max", "Min", "Sum", "Mean"))
    dtype = draw.pick((*FLOATS, "int32", "int64", "uint8")) if op in ("Max", "Min") else draw.pick(FLOATS)
    shapes = broadcastable(draw)
    values = [draw.numbers(shape, dtype, draw.extremes()) for shape in (*shapes, shapes[0])]
    return Sample(op, tuple(values[: draw.within(1, 3)]))


@family
def clip(draw: Draw) -> Sample:
    dtype = draw.pick((*FLOATS, "int32", "int64", "int8", "uint8"))
    x = draw.numbers(draw.shape(), dtype, draw.extremes())
    if draw.chance(0.2) and dtype == "float32":
        return Sample(
            "Clip", (x,), {"min": -1.0, "max": 2.0} if draw.chance() else {}, opset=draw.pick((6, 10))
        )
    low = np.asarray(draw.within(-2, 2)).astype(dtype) if draw.chance(0.7) else None
    high = np.asarray(draw.within(-1, 5)).astype(dtype) if draw.chance(0.7) else None
    return Sample("Clip", (x, low, high), fixed=frozenset({1, 2}) if draw.chance() else frozenset(), opset=13)


@family
def where(draw: Draw) -> Sample:
    one, other = broadcastable(draw)
    dtype = draw.pick((*FLOATS, "int32", "int64", "uint8", "bool"))
    return Sample(
        "Where",
        (draw.numbers(one, "bool"), draw.numbers(other, dtype, draw.extremes()), draw.numbers(one, dtype)),
    )


@family
def prelu(draw: Draw) -> Sample:
    shape, dtype = draw.shape(1), draw.pick((*FLOATS, "int32", "int64"))
    slope = [1 if draw.chance(0.4) else size for size in shape[draw.within(0, len(shape)) :]]
    return Sample("PRelu", (draw.numbers(shape, dtype, draw.extremes()), draw.numbers(slope, dtype)))


@family
def casts(draw: Draw) -> Sample:
    """Among types of numpy's own; floats that an integer type cannot hold are left to the processor."""
    kinds = ("float16", "float32", "float64", "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64")
    kinds = (*kinds, "uint64", "bool")
    source, to = draw.pick(kinds), draw.pick(kinds)
    shape = draw.shape()
    if np.dtype(source).kind == "f" and np.dtype(to).kind in "iu":
        x = draw.rng.uniform(0 if np.dtype(to).kind == "u" else -100, 100, tuple(shape)).astype(source)
    elif np.dtype(source).kind in "iu" and np.dtype(to).kind in "iu":
        x = draw.integers(shape, source)
    else:
        x = draw.numbers(shape, source, draw.extremes())
    number = helper.np_dtype_to_tensor_dtype(np.dtype(to))
    opset = draw.pick((9, 13, 19, 21, 23))
    if opset >= 15 and draw.chance(0.2):
        return Sample("CastLike", (x, np.zeros((1,), to)), opset=opset, fixed=frozenset({1}))
    return Sample("Cast", (x,), {"to": number}, opset=opset)
