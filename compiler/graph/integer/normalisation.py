"""Layer normalisation of stored integers: moments exact in integers, one root, one quotient and one product a row.

With `n` elements a row, `S` their sum and `Q` the sum of their squares, both of integers, a normalised element is

    (n * q - S) / sqrt(n * Q - S**2 + epsilon * n**2 / scale**2)

The root and the quotient are correctly rounded on every processor; the product is rounded to a whole number of
`2**-bits`, which the gain, the shift and the next grid then turn into a code as they do any sum.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from tvm import relax
from tvm.ir import Call

from edgec.compiler.graph.integer.requantise import INT32, INT64
from edgec.compiler.graph.integer.rewriter import Rewriter, rule
from edgec.compiler.graph.integer.values import STORED, Coded, Linear, Term, Value, magnitude
from edgec.compiler.graph.rewrite import Expr, constant, shape_of

MANTISSA = 24  # bits of float32: so many has the largest normalised element
LEAST = 1e-30  # in place of an epsilon of zero: rows of equal elements are zero


@rule("nn.layer_norm", "nn.rms_norm")
def _normalisation(r: Rewriter, call: Call) -> Value | None:
    value, attrs, shape = r.value(call.args[0]), call.attrs, shape_of(call.args[0])
    if (
        not isinstance(value, Coded)
        or value.dtype not in STORED
        or not value.per_tensor
        or value.array is not None
    ):
        return None
    axes = sorted(int(axis) % len(shape) for axis in attrs.axes)
    count = math.prod(shape[axis] for axis in axes)
    if axes != list(range(len(shape) - len(axes), len(shape))) or count < 2:
        return None
    centred = len(call.args) == 3
    used = [attrs.scale, attrs.center] if centred else [True]
    arrays = [
        r.array(arg) if use else np.asarray(neutral)
        for arg, use, neutral in zip(call.args[1:], used, (1.0, 0.0), strict=False)
    ]
    lead = (1,) * (len(shape) - len(axes))
    full = [
        a.reshape(lead + a.shape) if a.ndim else a for a in arrays if a is not None and np.isfinite(a).all()
    ]
    if len(full) < len(arrays):
        return None
    made = _normalised(r, value, axes, count, float(attrs.epsilon), centred=centred)
    if made is None:
        return None
    offset = full[1] if centred else np.zeros(())
    return Linear((Term(made.data, np.zeros((), np.int64), full[0] * 2.0**-made.bits, made.most),), offset)


@dataclass(frozen=True)
class _Normalised:
    """Whole numbers of `2**-bits`, and the largest magnitude of them."""

    data: Expr
    bits: int
    most: float


def _normalised(
    r: Rewriter, value: Coded, axes: list[int], count: int, epsilon: float, *, centred: bool
) -> _Normalised | None:
    """The normalised elements of rows, before gain and shift.

    Args:
        axes: of a row.
        count: elements of a row.
        centred: whether the mean is subtracted.
    """
    width = float(magnitude(value.dtype) + abs(int(value.zero.reshape(()))))
    if count * width > INT32 or count * count * width * width > INT64:
        return None
    wide = r.widened(value.data, "int32")
    if value.zero.any() and not centred:
        wide = r.emit(relax.op.subtract(wide, constant(value.zero.reshape(()).astype(np.int32))))
    factors = wide if count * width * width <= INT32 else r.widened(wide, "int64")
    total = _sum(r, r.emit(relax.op.multiply(factors, factors)), axes)
    power = r.emit(relax.op.multiply(r.widened(total, "int64"), constant(np.asarray(count, np.int64))))
    distance = r.emit(relax.op.multiply(wide, constant(np.asarray(count, np.int32))))
    if centred:
        sums = _sum(r, wide, axes)
        long = r.widened(sums, "int64")
        power = r.emit(relax.op.subtract(power, r.emit(relax.op.multiply(long, long))))
        distance = r.emit(relax.op.subtract(distance, sums))
    scale = float(value.scale.reshape(()))
    floor = np.asarray(max(epsilon * count**2 / scale**2, LEAST), np.float32)
    bits = MANTISSA - math.ceil(math.log2(math.sqrt(count)))
    if not np.isfinite(floor):
        return None
    spread = r.emit(
        relax.op.sqrt(r.emit(relax.op.add(r.emit(relax.op.astype(power, "float32")), constant(floor))))
    )
    factor = r.emit(relax.op.divide(constant(np.asarray(2.0**bits, np.float32)), spread))
    real = r.emit(relax.op.multiply(r.emit(relax.op.astype(distance, "float32")), factor))
    data = r.emit(relax.op.astype(r.emit(relax.op.round(real)), "int32"))
    return _Normalised(data, bits, math.sqrt(count) * 2.0**bits + 2)


def _sum(r: Rewriter, value: Expr, axes: list[int]) -> Expr:
    return r.emit(relax.op.sum(value, axis=axes, keepdims=True))
