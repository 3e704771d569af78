"""Resizing: the nearest neighbour moves integers, interpolation adds them with weights that are whole 2048ths.

The weights of an element add up to 2048 exactly, so that an area of one value keeps it.
"""

from __future__ import annotations

import math

import numpy as np
from tvm import relax
from tvm.ir import Call

from edgec.compiler.graph.integer.requantise import INT32
from edgec.compiler.graph.integer.rewriter import Rewriter, operands_of, rule
from edgec.compiler.graph.integer.values import STORED, Coded, Linear, Term, Value, linear_of
from edgec.compiler.graph.rewrite import Array, Expr, array_of, constant, shape_of
from edgec.compiler.kernels.interpolation import interpolated

ONE = 1 << 11
ATTRIBUTES = (
    "roi", "layout", "method", "coordinate_transformation_mode", "rounding_method", "cubic_alpha", "cubic_exclude",
    "extrapolation_value",
)  # fmt: skip


@rule("image.resize2d")
def _resize(r: Rewriter, call: Call) -> Value | None:
    value, method = r.value(call.args[0]), str(call.attrs.method)
    if not isinstance(value, Coded) or not value.per_tensor or value.dtype not in STORED:
        return None
    if method == "nearest_neighbor":
        attrs = {name: getattr(call.attrs, name) for name in ATTRIBUTES}
        attrs["roi"] = tuple(float(edge) for edge in attrs["roi"])
        return Coded(
            r.emit(relax.op.image.resize2d(value.data, call.args[1], **attrs)), value.scale, value.zero
        )
    if method != "linear" or str(call.attrs.layout) != "NCHW":
        return None
    shape, out = shape_of(call.args[0]), shape_of(call)
    linear: Linear | None = linear_of(value)
    for axis in (2, 3):
        if shape[axis] == out[axis]:
            continue
        places = _coordinates(shape[axis], out[axis], str(call.attrs.coordinate_transformation_mode))
        if places is None or linear is None:
            return None
        low = np.clip(np.floor(places), 0, shape[axis] - 1).astype("int32")
        share = places - np.floor(places)
        pair = np.stack([low, np.clip(np.floor(places) + 1, 0, shape[axis] - 1).astype("int32")], 1)
        linear = _along(r, linear, axis, pair, np.stack([1 - share, share], 1))
    return linear


def _coordinates(size: int, out: int, mode: str) -> Array | None:
    """Where the elements of a resized axis lie on the axis before; None for an unknown rule."""
    i = np.arange(out, dtype=np.float64)
    if mode == "align_corners":
        return i * ((size - 1) / (out - 1)) if out > 1 else np.zeros(out)
    if mode == "asymmetric":
        return i * (size / out)
    if mode == "half_pixel" or (mode == "pytorch_half_pixel" and out > 1):
        return np.clip((i + 0.5) * (size / out) - 0.5, 0, size - 1)
    return None


def _along(r: Rewriter, value: Linear, axis: int, places: Array, shares: Array) -> Linear | None:
    """A value interpolated along an axis."""
    shape = shape_of(value.terms[0].data)
    outer, inner = math.prod(shape[:axis]), math.prod(shape[axis + 1 :])
    made = _interpolated(r, value, [outer, shape[axis], inner], places, shares)
    if made is None:
        return None
    term = made.terms[0]
    data = r.emit(relax.op.reshape(term.data, (*shape[:axis], len(places), *shape[axis + 1 :])))
    return Linear((Term(data, term.shift, term.factor, term.most),), made.offset)


@rule("interpolated")
def _kernel(r: Rewriter, call: Call) -> Value | None:
    source, *tables = operands_of(call)
    places, shares = (array_of(table) for table in tables)
    value = linear_of(r.value(source))
    if value is None or places is None or shares is None:
        return None
    return _interpolated(r, value, list(shape_of(source)), places, shares)


def _interpolated(
    r: Rewriter, value: Linear, planes: list[int], places: Array, shares: Array
) -> Linear | None:
    if len(value.terms) != 1 or value.limited or value.offset.any():
        return None
    term = value.terms[0]
    if term.factor.size != 1 or term.shift.size != 1:
        return None
    whole = np.rint(shares * ONE).astype(np.int64)
    heaviest = np.argmax(np.abs(shares), axis=1)
    whole[np.arange(len(whole)), heaviest] += ONE - whole.sum(axis=1)
    reach = float(np.abs(whole).sum(axis=1).max())
    if term.most * reach > INT32:
        return None
    data: Expr = r.widened(term.data, "int32")
    if list(shape_of(data)) != planes:
        data = r.emit(relax.op.reshape(data, tuple(planes)))
    weights = constant(whole.astype("int32"))
    made = r.builder.emit_te(
        interpolated,
        data,
        constant(places.astype("int32")),
        weights,
        primfunc_name_hint="interpolated_integers",
    )
    shift = term.shift.reshape(()) * ONE
    return Linear((Term(made, shift, term.factor.reshape(()) / ONE, term.most * reach),), value.offset)
