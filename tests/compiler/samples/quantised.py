"""Quantisation, products of integers, casts to types that numpy does not have."""

from __future__ import annotations

from typing import Any

import numpy as np
from onnx import TensorProto

from tests.compiler.samples.sample import Array, Draw, Sample, family

NARROW = (
    TensorProto.FLOAT8E4M3FN, TensorProto.FLOAT8E4M3FNUZ, TensorProto.FLOAT8E5M2, TensorProto.FLOAT8E5M2FNUZ,
    TensorProto.BFLOAT16, TensorProto.INT4, TensorProto.UINT4, TensorProto.FLOAT4E2M1,
)  # fmt: skip


def scales(draw: Draw, shape: list[int]) -> Array:
    """Positive scales."""
    return np.asarray(draw.rng.uniform(0.05, 0.5, tuple(shape)).astype("float32"))


@family
def quantise(draw: Draw) -> Sample:
    opset = draw.pick((10, 13, 19, 21))
    x = draw.reals(draw.shape(2 if opset > 10 else 1), special=draw.extremes()) * np.float32(5)
    axis = draw.axis(x.ndim)
    kind = draw.pick(("uint8", "int8") + ("uint16", "int16") * (opset >= 21))
    own: list[int] = [x.shape[axis]] if opset >= 13 and draw.chance() else []
    attrs: dict[str, Any] = {"axis": axis} if opset >= 13 else {}
    if opset >= 21 and draw.chance(0.3):
        block = draw.within(1, x.shape[axis])
        own = list(x.shape)
        own[axis] = -(-own[axis] // block)
        attrs["block_size"] = block
        if -(-x.shape[axis] // own[axis]) != block:
            attrs["block_size"] = -(-x.shape[axis] // own[axis])
    zero = draw.integers(own, kind) if draw.chance(0.7) or kind not in ("uint8",) else None
    # What NaN becomes is open, and the evaluator does not saturate infinities.
    x = np.nan_to_num(x, nan=0.5, posinf=1e6, neginf=-1e6)
    fixed = frozenset({1, 2}) if draw.chance(0.6) else frozenset[int]()
    return Sample("QuantizeLinear", (x, scales(draw, own), zero), attrs, opset, fixed)


@family
def dequantise(draw: Draw) -> Sample:
    opset = draw.pick((19, 21, 23))
    kind = draw.pick(("uint8", "int8", "int32") + ("uint16", "int16") * (opset >= 21))
    x = draw.integers(draw.shape(2), kind, -200, 200)
    axis = draw.axis(x.ndim)
    own: list[int] = [x.shape[axis]] if opset >= 13 and draw.chance() else []
    attrs: dict[str, Any] = {"axis": axis} if opset >= 13 else {}
    if opset >= 21 and draw.chance(0.3):
        block = draw.within(1, x.shape[axis])
        own = list(x.shape)
        own[axis] = -(-own[axis] // block)
        attrs["block_size"] = -(-x.shape[axis] // own[axis])
    zero = draw.integers(own, kind, -100, 100) if draw.chance(0.7) and kind != "int32" else None
    fixed = frozenset({1, 2}) if draw.chance(0.6) else frozenset[int]()
    return Sample("DequantizeLinear", (x, scales(draw, own), zero), attrs, opset, fixed)


@family
def integer_product(draw: Draw) -> Sample:
    m, k, n = draw.many(3, 1, 6)
    head = draw.shape(0, 1, 3)
    ka, kb = draw.pick(("uint8", "int8")), draw.pick(("uint8", "int8"))
    a, b = draw.integers([*head, m, k], ka), draw.integers([k, n], kb)
    za = draw.integers(draw.pick(([], [1])), ka) if draw.chance(0.7) else None
    zb = draw.integers(draw.pick(([], [1])), kb) if draw.chance(0.7) else None
    if draw.chance(0.3):
        za = draw.integers([m] if not head else [*head, m, 1], ka)
    if draw.chance(0.3):
        zb = draw.integers([n], kb)
    one = np.zeros((), "int32") if za is None else za.astype("int32")
    other = np.zeros((), "int32") if zb is None else zb.astype("int32")
    if one.shape == (m,) and m > 1:
        one = one[:, None]  # the evaluator takes the rows of `a` for its columns
    truth = (a.astype("int32") - one) @ (b.astype("int32") - other)
    fixed = frozenset({1, 3}) if draw.chance() else frozenset[int]()
    return Sample("MatMulInteger", (a, b, za, zb), {}, 10, fixed, truth=(truth,))


@family
def integer_convolution(draw: Draw) -> Sample:
    groups = draw.pick((1, 1, 2))
    x = draw.integers([1, 2 * groups, *draw.many(2, 4, 6)], "uint8")
    w = draw.integers([2 * groups, 2, 3, 2], draw.pick(("uint8",)))
    zx = np.asarray(draw.within(0, 255), "uint8") if draw.chance(0.7) else None
    zw = np.asarray(draw.within(0, 255), "uint8") if draw.chance(0.7) else None
    attrs = {"strides": draw.many(2, 1, 2), "group": groups, "pads": [draw.within(0, 1) for _ in range(4)]}
    return Sample("ConvInteger", (x, w, zx, zw), attrs, 10, frozenset({1, 3}))


@family
def quantised_product(draw: Draw) -> Sample:
    m, k, n = draw.many(3, 1, 6)
    kind = draw.pick(("uint8", "int8"))
    one = np.asarray(0.03, "float32")

    def zero() -> Array:
        return draw.integers([], kind)

    a, b = draw.integers([m, k], kind), draw.integers([k, n], kind)
    return Sample(
        "QLinearMatMul",
        (a, one, zero(), b, one, zero(), np.asarray(0.4, "float32"), zero()),
        {},
        10,
        frozenset({3, 4, 5, 6, 7}),
    )


@family
def dynamic_quantise(draw: Draw) -> Sample:
    return Sample(
        "DynamicQuantizeLinear",
        (draw.reals(draw.shape(1)) + np.float32(draw.within(-5, 5)),),
        {},
        11,
        outputs=3,
    )
