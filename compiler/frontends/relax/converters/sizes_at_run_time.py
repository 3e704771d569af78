"""Shapes, slices, joins and repetitions where sizes or amounts are known only at run time."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from onnx import helper, numpy_helper
from tvm import relax, tirx

from edgec.compiler.frontends.relax.amounts import amounts, amounts_of, as_tensor, known_values, read_amounts
from edgec.compiler.frontends.relax.builder import Expr, constant
from edgec.compiler.frontends.relax.converters.registry import (
    CannotConvert,
    Node,
    axis_of,
    converts_dynamic,
    dtype_of,
    is_constant,
    reshaped,
)
from edgec.compiler.frontends.relax.converters.slicing import sliced
from edgec.compiler.frontends.relax.dims import (
    Dim,
    bound,
    cast_to,
    dims_of,
    is_same,
    is_static,
    product,
    size,
)
from edgec.compiler.kernels import dynamic


def viewed(node: Node, x: Expr, sizes: Sequence[Dim]) -> Expr:
    """The tensor in another shape of as many elements: another view of the same memory."""
    sizes = [bound(node.builder, one) for one in sizes]
    if is_static(x) and all(isinstance(one, int) for one in sizes):
        return node.emit(reshaped(x, sizes))
    kind = relax.TensorType(list(sizes), dtype_of(x))
    made = relax.op.call_pure_packed("vm.builtin.reshape", x, relax.ShapeExpr(list(sizes)), ty_args=kind)
    return node.emit(made)


def with_sizes(node: Node, x: Expr, sizes: Sequence[Dim]) -> Expr:
    """A tensor whose sizes are stated to be these."""
    own = dims_of(x)
    if len(own) == len(sizes) and all(is_same(a, b) for a, b in zip(own, sizes, strict=True)):
        return x
    return cast_to(node.builder, x, sizes)


def part_of(node: Node, x: Expr, picks: dict[int, slice]) -> Expr:
    """Neighbouring elements along axes whose sizes are known, by axis."""
    if is_static(x):
        return node.emit(sliced(node, x, picks))
    shape = dims_of(x)
    first = [picks[a].start if a in picks else 0 for a in range(len(shape))]
    sizes = [picks[a].stop - picks[a].start if a in picks else n for a, n in enumerate(shape)]
    return node.builder.emit_te(dynamic.strided, x, first, [1] * len(shape), sizes)


def is_read(node: Node, position: int) -> bool:
    """Whether the amounts of an input are values of the run, which may be 0, -1 or negative as the standard allows."""
    return node.has(position) and known_values(node, node.input(position)) is None


@converts_dynamic("Shape")
def _shape(node: Node) -> Expr:
    sizes = dims_of(node.input(0))[node.attrs.get("start", 0) : node.attrs.get("end", None)]
    return as_tensor(node, sizes, [len(sizes)])


@converts_dynamic("Size")
def _size(node: Node) -> Expr:
    return as_tensor(node, [product(dims_of(node.input(0)))], [])


@converts_dynamic("Reshape")
def _reshape(node: Node) -> Expr:
    x, keeps_zero = node.input(0), bool(node.attrs.get("allowzero", 0))
    own = dims_of(x)
    if is_read(node, 1):
        made = node.builder.emit_te(dynamic.reshaped_sizes, x, vector(node, 1), keeps_zero)
        return viewed(node, x, read_amounts(node.builder, made))
    wanted = amounts_of(node, "shape", 1)
    if wanted is None:
        raise CannotConvert("its shape is missing")
    zero = [isinstance(one, int) and one == 0 and not keeps_zero for one in wanted]
    given = [
        own[i] if z and i < len(own) else one for i, (z, one) in enumerate(zip(zero, wanted, strict=True))
    ]
    open_axes = [i for i, one in enumerate(given) if isinstance(one, int) and one == -1]
    for axis in open_axes:
        given[axis] = _left(own, [one for i, one in enumerate(given) if i != axis], product(own))
    return viewed(node, x, given)


def vector(node: Node, position: int) -> Expr:
    """The amounts of an input as a tensor of int64 of rank 1."""
    value = node.input(position)
    if not is_static(value):
        raise CannotConvert(f"how many values its input {position} has depends on the data")
    wide = value if dtype_of(value) == "int64" else node.emit(relax.op.astype(value, "int64"))
    return wide if len(dims_of(wide)) == 1 else node.emit(reshaped(wide, [product(dims_of(wide))]))


def _left(own: Sequence[Dim], others: Sequence[Dim], total: Dim) -> Dim:
    """The elements of a tensor of sizes `own` over the product of `others`."""
    top, bottom = list(own), list(others)
    for one in list(bottom):
        match = next((t for t in top if is_same(t, one)), None)
        if match is not None:
            top.remove(match) if isinstance(match, int) else top.pop(_index(top, match))
            bottom.pop(_index(bottom, one))
    rest = product(bottom)
    if isinstance(rest, int) and rest == 1:
        return product(top)
    left = product(top)
    if isinstance(left, int) and isinstance(rest, int):
        return left // rest if rest else 0
    return size(
        tirx.floordiv(
            _expr(left), tirx.max(_expr(rest), 1) if not isinstance(rest, int) else _expr(max(rest, 1))
        )
    )


def _index(items: Sequence[Dim], wanted: Dim) -> int:
    return next(i for i, item in enumerate(items) if item is wanted)


def _expr(value: Dim) -> Expr:
    return tirx.IntImm("int64", value) if isinstance(value, int) else value


@converts_dynamic("Flatten")
def _flatten(node: Node) -> Expr:
    x = node.input(0)
    sizes = dims_of(x)
    axis = int(node.attrs.get("axis", 1))
    axis = axis + len(sizes) if axis < 0 else axis
    return viewed(node, x, [product(sizes[:axis]), product(sizes[axis:])])


@converts_dynamic("Squeeze")
def _squeeze(node: Node) -> Expr:
    sizes, axes = dims_of(node.input(0)), node.ints("axes", 1)
    if axes is None and not is_static(node.input(0)):
        raise CannotConvert("which axes it drops depends on sizes known only at run time")
    gone = {axis_of(a, len(sizes)) for a in axes} if axes is not None else None
    kept = [s for i, s in enumerate(sizes) if (s != 1 if gone is None else i not in gone)]
    return viewed(node, node.input(0), kept)


@converts_dynamic("Unsqueeze")
def _unsqueeze(node: Node) -> Expr:
    sizes, axes = dims_of(node.input(0)), node.ints("axes", 1)
    if axes is None:
        raise CannotConvert("its axes are missing")
    rank = len(sizes) + len(axes)
    for axis in sorted(axis_of(a, rank) for a in axes):
        sizes.insert(axis, 1)
    return viewed(node, node.input(0), sizes)


@converts_dynamic("Transpose")
def _transpose(node: Node) -> Expr:
    rank = len(dims_of(node.input(0)))
    order = [int(a) for a in node.attrs.get("perm", range(rank - 1, -1, -1))]
    return node.input(0) if order == list(range(rank)) else relax.op.permute_dims(node.input(0), order)


@converts_dynamic("Identity", "Dropout")
def _identity(node: Node) -> Expr | list[Expr]:
    if len(node.outputs) > 1 and node.outputs[1]:
        raise CannotConvert("its mask is not compiled for sizes known only at run time")
    return node.input(0)


@converts_dynamic("ConstantOfShape")
def _constant_of_shape(node: Node) -> Expr:
    sizes = amounts(node, 0)
    if sizes is None:
        raise CannotConvert("its shape is missing")
    given = node.attrs.get("value")
    value = numpy_helper.to_array(given).reshape(()) if given is not None else np.zeros((), "float32")
    sizes = [bound(node.builder, one) for one in sizes]
    return relax.op.full(relax.ShapeExpr(list(sizes)), constant(value), str(value.dtype))


@converts_dynamic("EyeLike")
def _eye_like(node: Node) -> Expr:
    kind = node.attrs.get("dtype")
    dtype = str(helper.tensor_dtype_to_np_dtype(int(kind))) if kind else node.dtype(0)
    sizes, offset = dims_of(node.input(0)), int(node.attrs.get("k", 0))

    def define(shape: Sequence[Dim]) -> Expr:
        return dynamic.diagonal(shape, offset, dtype)

    return node.builder.emit_te(define, sizes)


@converts_dynamic("Range")
def _range(node: Node) -> Expr:
    start, limit, delta = (node.input(i) for i in range(3))
    dtype = dtype_of(start)
    start, limit, delta = (node.emit(reshaped(x, [])) if dims_of(x) else x for x in (start, limit, delta))
    known = [known_values(node, x) for x in (start, limit, delta)] if dtype in ("int64", "int32") else [None]
    if all(known):
        first, end, step = (values[0] for values in known if values)
        if isinstance(step, int) and step:
            count = _steps(first, end, step)
            return node.builder.emit_te(dynamic.counted, start, delta, bound(node.builder, count))
    wide = [node.emit(relax.op.astype(x, "float64")) for x in (start, limit, delta)]
    steps = node.emit(relax.op.divide(node.emit(relax.op.subtract(wide[1], wide[0])), wide[2]))
    counted = node.emit(relax.op.astype(node.emit(relax.op.ceil(steps)), "int64"))
    none = node.emit(relax.op.maximum(counted, constant(0, "int64")))
    (count,) = read_amounts(node.builder, none)
    return node.builder.emit_te(dynamic.counted, start, delta, count)


def _steps(first: Dim, end: Dim, step: Dim) -> Dim:
    """How many numbers from `first` on, each `step` more, come before `end`."""
    distance = end - first if isinstance(step, int) and step > 0 else first - end
    width = abs(step)
    if isinstance(distance, int):
        return max(0, -(-distance // width))
    whole = distance if width == 1 else tirx.floordiv(distance + (width - 1), _expr(width))
    return tirx.max(whole, 0)


@converts_dynamic("Expand")
def _expand(node: Node) -> Expr:
    wanted = amounts_of(node, "shape", 1)
    if wanted is None:
        raise CannotConvert("its shape is missing")
    own = dims_of(node.input(0))
    rank = max(len(own), len(wanted))
    left = [1] * (rank - len(own)) + list(own)
    right = [1] * (rank - len(wanted)) + list(wanted)
    sizes = [bound(node.builder, common_size(node, a, b)) for a, b in zip(left, right, strict=True)]
    return spread_to(node, node.input(0), sizes)


def common_size(node: Node, a: Dim, b: Dim) -> Dim:
    """The size of an axis of two tensors that are broadcast."""
    importer = node.scope.importer
    if is_same(a, b) or (isinstance(b, int) and b == 1):
        return a
    if (isinstance(a, int) and a == 1) or importer.exceeds_one(b):
        return b
    if importer.exceeds_one(a):
        return a
    return tirx.Select(_expr(a) == 1, _expr(b), _expr(a))


def spread_to(node: Node, x: Expr, sizes: Sequence[Dim]) -> Expr:
    """A tensor broadcast to `sizes`; itself where it has them already."""
    own = dims_of(x)
    if len(own) == len(sizes) and all(is_same(a, b) for a, b in zip(own, sizes, strict=True)):
        return x
    return node.builder.emit_te(dynamic.spread, x, list(sizes))


@converts_dynamic("Tile")
def _tile(node: Node) -> Expr:
    repeats = amounts_of(node, "repeats", 1)
    if repeats is None:
        raise CannotConvert("its repeats are missing")
    sizes = [bound(node.builder, s * t) for s, t in zip(dims_of(node.input(0)), repeats, strict=True)]
    return node.builder.emit_te(dynamic.tiled, node.input(0), sizes)


@converts_dynamic("Slice")
def _slice(node: Node) -> Expr:
    x = node.input(0)
    sizes = dims_of(x)
    if any(is_read(node, i) for i in (1, 2, 4)):
        return _sliced_by_data(node, x, sizes)
    starts, ends = amounts_of(node, "starts", 1), amounts_of(node, "ends", 2)
    if starts is None or ends is None:
        raise CannotConvert("its starts or ends are missing")
    axes = node.ints("axes", 3) or list(range(len(starts)))
    steps = amounts(node, 4) or [1] * len(starts)
    first: list[Dim] = [0] * len(sizes)
    strides: list[Dim] = [1] * len(sizes)
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        axis = axis_of(axis, len(sizes))
        begin, count = sliced_span(sizes[axis], start, end, step)
        first[axis], strides[axis] = bound(node.builder, begin), step
        sizes[axis] = bound(node.builder, count)
    return node.builder.emit_te(dynamic.strided, x, first, strides, sizes)


def _sliced_by_data(node: Node, x: Expr, sizes: list[Dim]) -> Expr:
    """A slice whose starts, ends or steps are values of the run."""
    starts, ends = vector(node, 1), vector(node, 2)
    count = int(dims_of(starts)[0])
    steps = vector(node, 4) if node.has(4) else constant([1] * count, "int64")
    axes = [axis_of(a, len(sizes)) for a in node.ints("axes", 3) or range(count)]
    spans = read_amounts(
        node.builder, node.builder.emit_te(dynamic.slice_spans, x, starts, ends, steps, axes)
    )
    first: list[Dim] = [0] * len(sizes)
    for axis, begin, length in zip(axes, spans[:count], spans[count:], strict=True):
        first[axis], sizes[axis] = begin, length

    # symbolic sizes are arguments, so that the kernel gets them
    def by_data(data: Expr, widths: Expr, begins: Sequence[Dim], shape: Sequence[Dim]) -> Expr:
        strides = [widths[axes.index(a)] if a in axes else 1 for a in range(len(shape))]
        return dynamic.strided(data, begins, strides, shape)

    return node.builder.emit_te(by_data, x, steps, first, sizes)


def sliced_span(length: Dim, start: Dim, end: Dim, step: Dim) -> tuple[Dim, Dim]:
    """The first element of a slice of an axis, and how many it has."""
    if all(isinstance(v, int) for v in (length, start, end, step)):
        if step == 0:
            raise CannotConvert("a step is 0")
        span = range(*slice(start, end, step).indices(length))
        return span.start, len(span)
    if not isinstance(step, int):
        raise CannotConvert("its steps follow from sizes known only at run time")
    if step == 0:
        raise CannotConvert("a step is 0")
    forward = step > 0
    low, high = (0, length) if forward else (-1, length - 1)
    first, last = (_clamped(length, one, low, high) for one in (start, end))
    width = abs(step)
    distance = last - first if forward else first - last
    count = distance if width == 1 else tirx.floordiv(_expr(distance + (width - 1)), _expr(width))
    return size(first), max(0, count) if isinstance(count, int) else tirx.max(count, 0)


def _clamped(length: Dim, at: Dim, low: Dim, high: Dim) -> Dim:
    """A position, from the end on where negative, within its limits."""
    if isinstance(at, int):
        if at >= 0:
            if at == 0 and isinstance(low, int) and low == 0:
                return 0
            if at >= (1 << 31) - 1:
                return high
            return tirx.min(_expr(at), _expr(high))
        if at <= -((1 << 31) - 1):
            return low
        return tirx.max(_expr(length) + at, _expr(low))
    return tirx.max(tirx.min(at, _expr(high)), _expr(low))


@converts_dynamic("Concat")
def _concat(node: Node) -> Expr:
    parts = [part for part in node.inputs if part is not None]
    sizes = dims_of(parts[0])
    axis = axis_of(int(node.attrs.get("axis", 1)), len(sizes))
    parts = [p for p in parts if not (isinstance(dims_of(p)[axis], int) and dims_of(p)[axis] == 0)] or parts[
        :1
    ]
    if len(parts) == 1:
        return parts[0]
    own = [_agreeing(node, part, dims_of(parts[0]), axis) for part in parts]
    return relax.op.concat(own, axis)


def _agreeing(node: Node, part: Expr, like: Sequence[Dim], axis: int) -> Expr:
    """A tensor whose other sizes are stated to be those of the first."""
    own = dims_of(part)
    wanted = [mine if i == axis else theirs for i, (mine, theirs) in enumerate(zip(own, like, strict=True))]
    return with_sizes(node, part, wanted)


@converts_dynamic("Split")
def _split(node: Node) -> list[Expr]:
    x = node.input(0)
    sizes = dims_of(x)
    axis = axis_of(int(node.attrs.get("axis", 0)), len(sizes))
    parts = amounts_of(node, "split", 1)
    if parts is None:
        count = int(node.attrs.get("num_outputs", len(node.outputs)))
        step = _whole_quotient(sizes[axis], count)
        last = sizes[axis] - step * (count - 1)
        parts = [*[step] * (count - 1), last]
    made, start = [], 0
    for part in parts:
        out = [bound(node.builder, part) if i == axis else one for i, one in enumerate(sizes)]
        first = [bound(node.builder, start) if i == axis else 0 for i in range(len(sizes))]
        made.append(node.builder.emit_te(dynamic.strided, x, first, [1] * len(sizes), out))
        start = start + part
    return made


def _whole_quotient(length: Dim, count: int) -> Dim:
    return (
        -(-length // count) if isinstance(length, int) else tirx.floordiv(length + (count - 1), _expr(count))
    )


@converts_dynamic("Gather")
def _gather(node: Node) -> Expr:
    axis = axis_of(int(node.attrs.get("axis", 0)), len(dims_of(node.input(0))))
    return node.builder.emit_te(dynamic.gathered, node.input(0), node.input(1), axis)


@converts_dynamic("Pad")
def _pad(node: Node) -> Expr:
    x = node.input(0)
    sizes, mode = dims_of(x), str(node.attrs.get("mode", "constant"))
    axes = [axis_of(a, len(sizes)) for a in node.ints("", 3) or range(len(sizes))]
    values = _added_value(node, x, mode)
    if is_read(node, 1):
        widths = vector(node, 1)
        made = read_amounts(node.builder, node.builder.emit_te(dynamic.padded_sizes, x, widths, axes))

        def by_data(data: Expr, given: Expr, *value: Expr) -> Expr:
            ahead = [given[axes.index(a)] if a in axes else 0 for a in range(len(sizes))]
            return dynamic.padded(data, ahead, made, mode, *value)

        return node.builder.emit_te(by_data, x, widths, *values)
    amounts_given = amounts_of(node, "pads", 1)
    if amounts_given is None:
        raise CannotConvert("its widths are missing")
    before: list[Dim] = [0] * len(sizes)
    for number, axis in enumerate(axes):
        ahead, behind = amounts_given[number], amounts_given[number + len(axes)]
        sizes[axis] = bound(node.builder, sizes[axis] + ahead + behind)
        before[axis] = ahead

    def by_sizes(data: Expr, ahead: Sequence[Dim], shape: Sequence[Dim], *value: Expr) -> Expr:
        return dynamic.padded(data, ahead, shape, mode, *value)

    return node.builder.emit_te(by_sizes, x, before, sizes, *values)


def _added_value(node: Node, x: Expr, mode: str) -> list[Expr]:
    """The value of added elements, where one is given."""
    if mode != "constant":
        return []
    if node.has(2):
        return [node.input(2) if not dims_of(node.input(2)) else node.emit(reshaped(node.input(2), []))]
    return [constant(float(node.attrs["value"]), dtype_of(x))] if "value" in node.attrs else []


@converts_dynamic("DepthToSpace")
def _depth_to_space(node: Node) -> Expr:
    x, block = node.input(0), int(node.attrs["blocksize"])
    batch, channels, height, width = dims_of(x)
    if not isinstance(channels, int):
        raise CannotConvert("its number of channels is known only at run time")
    own = channels // (block * block)
    rows_first = str(node.attrs.get("mode", "DCR")) == "DCR"
    split = (
        [batch, block, block, own, height, width] if rows_first else [batch, own, block, block, height, width]
    )
    order = [0, 3, 4, 1, 5, 2] if rows_first else [0, 1, 4, 2, 5, 3]
    turned = node.emit(relax.op.permute_dims(viewed(node, x, split), order))
    return viewed(node, turned, [batch, own, height * block, width * block])


@converts_dynamic("SpaceToDepth")
def _space_to_depth(node: Node) -> Expr:
    x, block = node.input(0), int(node.attrs["blocksize"])
    batch, channels, height, width = dims_of(x)
    rows, columns = _whole_part(height, block), _whole_part(width, block)
    split = viewed(node, x, [batch, channels, rows, block, columns, block])
    order = [0, 3, 5, 1, 2, 4] if str(node.attrs.get("mode", "DCR")) == "DCR" else [0, 1, 3, 5, 2, 4]
    turned = node.emit(relax.op.permute_dims(split, order))
    return viewed(node, turned, [batch, channels * block * block, rows, columns])


def _whole_part(length: Dim, block: int) -> Dim:
    return length // block if isinstance(length, int) else tirx.floordiv(length, _expr(block))


__all__ = ["common_size", "is_constant", "part_of", "spread_to", "viewed", "with_sizes"]
