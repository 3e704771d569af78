"""Operators that move values or choose among them: they move integers."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
from tvm import relax
from tvm.ir import Call, TupleGetItem

from edgec.compiler.graph.integer.requantise import INT32
from edgec.compiler.graph.integer.rewriter import Rewriter, rule
from edgec.compiler.graph.integer.values import Coded, Joined, Linear, Mapped, Term, Value
from edgec.compiler.graph.rewrite import Array, Expr, constant, dtype_of, shape_of

MOVING = (
    "reshape", "flatten", "squeeze", "expand_dims", "permute_dims", "broadcast_to", "strided_slice", "take", "flip",
    "tile", "repeat", "gather_elements", "gather_nd", "layout_transform", "dynamic_strided_slice",
)  # fmt: skip
# These take the greatest of some values, so codes have to rise with the values that they stand for.
CHOOSING = ("nn.max_pool1d", "nn.max_pool2d", "nn.max_pool3d", "max", "nn.adaptive_max_pool2d")
MOST_VALUES = 1 << 14  # of scales or shifts, in tables of their own


@rule(*MOVING)
def _move(r: Rewriter, call: Call) -> Value | None:
    value = r.value(call.args[0])
    if any(isinstance(arg, relax.Var) and arg in r.values for arg in call.args[1:]):
        return None  # a table of indices that is computed from real numbers
    if isinstance(value, Coded):
        return _moved_constant(call, value) if value.array is not None else _moved(r, call, value)
    if isinstance(value, Mapped):
        return _moved_map(r, call, value)
    if isinstance(value, Linear) and len(value.terms) == 1 and not value.limited:
        return _moved_sums(r, call, value)
    return None


def _applied(r: Rewriter, call: Call, data: Expr) -> Expr:
    rest = [r.plain(arg) for arg in call.args[1:]]
    return r.emit(Call(call.op, [data, *rest], call.attrs, call.ty_args))


def _moved(r: Rewriter, call: Call, value: Coded) -> Coded | None:
    scale, zero = (_moved_array(call, a, shape_of(value.data)) for a in (value.scale, value.zero))
    if scale is None or zero is None:
        return None
    if value.root is None:
        return Coded(_applied(r, call, value.data), scale, zero)
    root = value.root[0]
    same = root.same_as(value.data)
    data = _applied(r, call, value.data)
    return Coded(data, scale, zero, root=(data if same else _applied(r, call, root), value.root[1]))


def _moved_map(r: Rewriter, call: Call, value: Mapped) -> Mapped:
    root = _applied(r, call, value.root)
    linear = value.linear
    if linear is not None and len(linear.terms) == 1 and linear.terms[0].factor.size == 1:
        term = linear.terms[0]
        own = root if term.data.same_as(value.root) else _applied(r, call, term.data)
        moved = Term(own, term.shift, term.factor, term.most)
        return Mapped(root, value.real, Linear((moved,), linear.offset, linear.low, linear.high))
    return Mapped(root, value.real)


def _moved_sums(r: Rewriter, call: Call, value: Linear) -> Linear | None:
    term, shape = value.terms[0], shape_of(call.args[0])
    factor, offset = (_moved_array(call, a, shape) for a in (term.factor, value.offset))
    if factor is None or offset is None:
        return None
    shift, data, most = _moved_array(call, term.shift, shape), term.data, term.most
    if (
        shift is None or sum(size > 1 for size in shift.shape) > 1
    ):  # as between phases of a transposed convolution
        most += float(np.abs(term.shift).max())
        if most > INT32 or dtype_of(data) != "int32":
            return None
        data = r.emit(relax.op.add(data, constant(term.shift.astype(np.int32))))
        shift = np.zeros((), np.int64)
    return Linear((Term(_applied(r, call, data), shift, factor, most, term.count),), offset)


def _moved_array(call: Call, array: Array, shape: tuple[int, ...]) -> Array | None:
    """A scale, one for all or one per slice, after the operator; None where that is not known."""
    if array.size == 1:
        return array
    name = str(call.op.name).removeprefix("relax.")
    if name == "permute_dims":
        axes = call.attrs.axes
        return array.transpose(None if axes is None else [int(a) for a in axes])
    if name in ("reshape", "flatten", "squeeze", "expand_dims"):
        return _reshaped(array, shape, shape_of(call))
    if name == "strided_slice":
        return array if _keeps_axes(call, array, shape) else None
    return None


def _keeps_axes(call: Call, array: Array, shape: tuple[int, ...]) -> bool:
    """Whether a slice takes all along the axes along which an array varies, in their order."""
    strides = [1] * len(shape)
    if len(call.args) > 4:
        for axis, stride in zip(call.args[1].fields, call.args[4].fields, strict=True):
            strides[_number(axis) % len(shape)] = _number(stride)
    varies = [axis for axis, size in enumerate(array.shape) if size > 1]
    return array.ndim == len(shape) and all(
        shape_of(call)[axis] == shape[axis] and strides[axis] > 0 for axis in varies
    )


def _number(value: Expr) -> int:
    return int(getattr(value, "value", value))


def _reshaped(array: Array, shape: tuple[int, ...], out: tuple[int, ...]) -> Array | None:
    """What broadcasts against a tensor, after a reshape of it; None where that would be about as large.

    Axes that keep their elements together are taken one group after the other: several may become one, or one several
    (the phases of a transposed convolution).
    """
    if array.ndim != len(shape) or 0 in shape:
        return None
    wide, made = list(array.shape), list[int]()
    for before, behind in _groups(shape, out):
        varies = any(array.shape[axis] > 1 for axis in before)
        for axis in before:
            wide[axis] = shape[axis] if varies else 1
        made += [out[axis] if varies else 1 for axis in behind]
    if math.prod(wide) > MOST_VALUES:
        return None
    return _without_equal(np.broadcast_to(array, wide).reshape(made))


def _groups(shape: tuple[int, ...], out: tuple[int, ...]) -> Iterator[tuple[range, range]]:
    """The smallest groups of neighbouring axes that a reshape maps onto each other."""
    i = j = 0
    while i < len(shape) or j < len(out):
        begins, sizes = (i, j), [1, 1]
        while (i == begins[0] and j == begins[1]) or sizes[0] != sizes[1]:
            if j == len(out) or (i < len(shape) and sizes[0] <= sizes[1]):
                sizes[0], i = sizes[0] * shape[i], i + 1
            else:
                sizes[1], j = sizes[1] * out[j], j + 1
        yield range(begins[0], i), range(begins[1], j)


def _without_equal(array: Array) -> Array:
    """The array with one slice along axes whose slices are all the same."""
    for axis in range(array.ndim):
        first = array.take([0], axis)
        if array.shape[axis] > 1 and (array == first).all():
            array = first
    return array


def _moved_constant(call: Call, value: Coded) -> Coded | None:
    """Weights, rearranged when the model is compiled."""
    assert value.array is not None
    scale, zero = (_moved_array(call, a, value.array.shape) for a in (value.scale, value.zero))
    name = str(call.op.name).removeprefix("relax.")
    if scale is None or zero is None:
        return None
    if name == "permute_dims":
        axes = call.attrs.axes
        array = value.array.transpose(None if axes is None else [int(a) for a in axes])
    elif name in ("reshape", "flatten", "squeeze", "expand_dims"):
        array = value.array.reshape(shape_of(call))
    else:
        return None
    return Coded(constant(array), scale, zero, array)


@rule(*CHOOSING)
def _choose(r: Rewriter, call: Call) -> Value | None:
    value = r.value(call.args[0])
    if isinstance(value, Coded) and value.array is None and value.per_tensor:
        made = _moved(r, call, Coded(value.data, value.scale, value.zero))
        return made
    if isinstance(value, Mapped) and (np.diff(value.real.astype(np.float64)) >= 0).all():
        return _moved_map(r, call, value)
    return None


@rule("nn.pad")
def _pad(r: Rewriter, call: Call) -> Value | None:
    value, attrs = r.value(call.args[0]), call.attrs
    if not isinstance(value, Coded) or value.array is not None or not value.per_tensor:
        return None
    if str(attrs.pad_mode) != "constant":
        return Coded(_applied(r, call, value.data), value.scale, value.zero)
    code = float(attrs.pad_value) / float(value.scale.reshape(())) + int(value.zero.reshape(()))
    limits = np.iinfo(value.dtype)
    if not limits.min <= code <= limits.max or abs(code - round(code)) > 1e-5:
        return None  # what is put around is not on the grid
    widths = [int(w) for w in attrs.pad_width]
    return Coded(r.emit(relax.op.nn.pad(value.data, widths, pad_value=round(code))), value.scale, value.zero)


@rule("split")
def _split(r: Rewriter, call: Call) -> list[Value] | None:
    value = r.value(call.args[0])
    if not isinstance(value, Coded) or value.array is not None or not value.per_tensor:
        return None
    parts = r.emit(Call(call.op, [value.data, *call.args[1:]], call.attrs, call.ty_args))
    count = len(call.ty.fields)
    return [Coded(r.emit(TupleGetItem(parts, i)), value.scale, value.zero) for i in range(count)]


@rule("concat")
def _concat(r: Rewriter, call: Call) -> Value | None:
    rank = int(call.ty.ndim)
    axis = int(call.attrs.axis) % rank
    parts = [r.value(field) for field in call.args[0].fields]
    if not all(isinstance(part, Coded | Mapped | Linear) for part in parts):
        return None
    first = parts[0]
    grids = [part for part in parts if isinstance(part, Coded) and isinstance(first, Coded)]
    if len(grids) == len(parts) and all(part.same_grid(grids[0]) for part in grids):
        data = r.emit(relax.op.concat([part.data for part in grids], axis))
        return Coded(data, grids[0].scale, grids[0].zero)
    if any(isinstance(p, Linear) and any(t.factor.size > 1 for t in p.terms) and axis == 0 for p in parts):
        return None
    return Joined(tuple(part for part in parts if isinstance(part, Coded | Mapped | Linear)), axis)
