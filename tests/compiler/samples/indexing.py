"""Reading and writing by index, and operators that move elements."""

from __future__ import annotations

from typing import Any

import numpy as np

from tests.compiler.samples.sample import FLOATS, Array, Draw, Sample, family

TYPES = (*FLOATS, "int32", "int64", "uint8", "bool")


def indices(draw: Draw, shape: list[int], size: int) -> Array:
    """Indices of an axis, counted from either end."""
    return draw.integers(shape, draw.pick(("int32", "int64")), -size, size - 1)


@family
def gather(draw: Draw) -> Sample:
    x = draw.numbers(draw.shape(1), draw.pick(TYPES), draw.extremes())
    axis = draw.axis(x.ndim)
    where = indices(draw, draw.shape(0, 3, 3), x.shape[axis])
    attrs = {"axis": axis} if axis or draw.chance() else {}
    return Sample("Gather", (x, where), attrs, draw.pick((11, 13)), frozenset({draw.pick((1, 1, 9))}))


@family
def gather_elements(draw: Draw) -> Sample:
    x = draw.numbers(draw.shape(1), draw.pick(TYPES), draw.extremes())
    axis = draw.axis(x.ndim)
    shape = [draw.within(1, 5) if a == axis % x.ndim else draw.within(1, n) for a, n in enumerate(x.shape)]
    where = indices(draw, shape, x.shape[axis])
    cut = tuple(slice(None if a == axis % x.ndim else n) for a, n in enumerate(shape))
    truth = np.take_along_axis(x[cut], where, axis)  # the evaluator wants the shape of the data
    return Sample(
        "GatherElements", (x, where), {"axis": axis}, 13, frozenset({draw.pick((1, 9))}), truth=(truth,)
    )


@family
def gather_nd(draw: Draw) -> Sample:
    x = draw.numbers(draw.shape(1, 4), draw.pick(TYPES), draw.extremes())
    batch = draw.within(0, x.ndim - 1) if draw.chance(0.4) else 0
    depth = draw.within(1, x.ndim - batch)
    head = [*x.shape[:batch], *draw.shape(0, 2, 3)]
    parts = [draw.integers(head, "int64", -n, n - 1) for n in x.shape[batch : batch + depth]]
    where = np.stack(parts, -1)
    return Sample("GatherND", (x, where), {"batch_dims": batch}, 13, frozenset({draw.pick((1, 9))}))


@family
def scatter_elements(draw: Draw) -> Sample:
    opset = draw.pick((11, 13, 16, 18))
    dtype = draw.pick(("float32", "float32", "float64", "float16", "int32", "int64"))
    reduction = draw.pick(
        {16: ("none", "add", "mul"), 18: ("none", "add", "mul", "max", "min")}.get(opset, ("none",))
    )
    x = draw.numbers(draw.shape(1), dtype, draw.extremes())
    axis = draw.axis(x.ndim)
    shape = [draw.within(1, n) for n in x.shape]
    if reduction == "none":  # each place once
        order = np.argsort(draw.rng.random(x.shape), axis)[tuple(slice(n) for n in shape)]
        where = order - np.where(draw.rng.random(order.shape) < 0.3, x.shape[axis], 0)
    else:
        where = draw.integers(shape, "int64", -x.shape[axis], x.shape[axis] - 1)
    attrs: dict[str, Any] = {"axis": axis}
    if opset >= 16:
        attrs["reduction"] = reduction
    # the evaluator's largest of NaN and a number depends on their order
    special = 0.0 if reduction in ("max", "min") else draw.extremes()
    x, values = draw.numbers(x.shape, dtype, special), draw.numbers(shape, dtype, special)
    return Sample("ScatterElements", (x, where, values), attrs, opset, frozenset({draw.pick((1, 9))}))


@family
def scatter_nd(draw: Draw) -> Sample:
    opset = draw.pick((11, 13, 16, 18))
    dtype = draw.pick(("float32", "float32", "float64", "int32", "int64"))
    reduction = draw.pick(
        {16: ("none", "add", "mul"), 18: ("none", "add", "mul", "max", "min")}.get(opset, ("none",))
    )
    x = draw.numbers(draw.shape(1, 4, 5), dtype, draw.extremes())
    depth = draw.within(1, x.ndim)
    space = list(x.shape[:depth])
    count = draw.within(1, int(np.prod(space)))
    if reduction == "none":
        flat = draw.rng.permutation(int(np.prod(space)))[:count]
    else:
        flat = draw.rng.integers(0, int(np.prod(space)), count)
    where = np.stack(np.unravel_index(flat, space), -1).astype("int64")
    where = where - np.where(draw.rng.random(where.shape) < 0.2, np.asarray(space), 0)
    values = draw.numbers([count, *x.shape[depth:]], dtype, draw.extremes())
    attrs = {"reduction": reduction} if opset >= 16 else {}
    return Sample("ScatterND", (x, where, values), attrs, opset, frozenset({draw.pick((1, 9))}))


@family
def one_hot(draw: Draw) -> Sample:
    shape, depth = draw.shape(1, 3), draw.within(1, 6)
    where = draw.integers(shape, draw.pick(("int32", "int64")), -depth - 1, depth)
    if draw.chance(0.3):
        where = where.astype("float32")
    values = draw.numbers([2], draw.pick(("float32", "int32", "int64")))
    amount = np.asarray(depth, draw.pick(("int64", "int32", "float32")))
    axis = draw.within(-len(shape) - 1, len(shape))
    return Sample("OneHot", (where, amount, values), {"axis": axis}, 11, frozenset({1, draw.pick((2, 9))}))


@family
def moved(draw: Draw) -> Sample:
    """Operators without arithmetic."""
    op = draw.pick(
        ("Transpose", "Flatten", "Squeeze", "Unsqueeze", "DepthToSpace", "SpaceToDepth", "Trilu", "Concat")
    )
    dtype = draw.pick(TYPES)
    special = draw.extremes()
    if op == "Transpose":
        x = draw.numbers(draw.shape(0, 5, 4), dtype, special)
        return Sample(
            op,
            (x,),
            {"perm": [int(a) for a in draw.rng.permutation(x.ndim)]} if x.ndim and draw.chance(0.8) else {},
            13,
        )
    if op == "Flatten":
        x = draw.numbers(draw.shape(1), dtype, special)
        return Sample(op, (x,), {"axis": draw.within(-x.ndim, x.ndim)}, 13)
    if op == "Squeeze":
        shape = draw.shape(1)
        ones = [a for a, n in enumerate(shape) if n == 1]
        given = np.asarray([a - (len(shape) if draw.chance() else 0) for a in ones], "int64")
        return Sample(
            op, (draw.numbers(shape, dtype, special), given if ones else None), {}, 13, frozenset({1})
        )
    if op == "Unsqueeze":
        x, count = draw.numbers(draw.shape(0, 3), dtype, special), draw.within(1, 2)
        axes = draw.rng.permutation(x.ndim + count)[:count]
        return Sample(
            op, (x, axes - np.where(draw.rng.random(count) < 0.4, x.ndim + count, 0)), {}, 13, frozenset({1})
        )
    if op in ("DepthToSpace", "SpaceToDepth"):
        block, (n, c, h, w) = draw.within(1, 3), draw.many(4, 1, 3)
        shape = [n, c * block**2, h, w] if op == "DepthToSpace" else [n, c, h * block, w * block]
        attrs: dict[str, Any] = {"blocksize": block}
        if op == "DepthToSpace":
            attrs["mode"] = draw.pick(("DCR", "CRD"))
        return Sample(op, (draw.numbers(shape, dtype, special),), attrs, 13)
    if op == "Trilu":
        x = draw.numbers(draw.shape(2, 4), dtype, special)
        offset = np.asarray(draw.within(-6, 6), "int64") if draw.chance(0.7) else None
        return Sample(op, (x, offset), {"upper": draw.within(0, 1)}, 14, frozenset({1}))
    shape = draw.shape(1)
    axis = draw.axis(len(shape))
    parts = []
    for _ in range(draw.within(1, 4)):
        own = list(shape)
        own[axis] = draw.within(1, 4)
        parts.append(draw.numbers(own, dtype, special))
    return Sample(op, tuple(parts), {"axis": axis}, 13)


@family
def split(draw: Draw) -> Sample:
    x = draw.numbers(draw.shape(1, 4, 7), draw.pick(TYPES), draw.extremes())
    axis, opset = draw.axis(x.ndim), draw.pick((11, 13, 18))
    size, count = x.shape[axis], draw.within(1, 3)
    if opset == 18 and draw.chance():
        count = min(count, size)
        if (count - 1) * -(-size // count) >= size:
            count = 1
        return Sample("Split", (x,), {"axis": axis, "num_outputs": count}, 18, outputs=count)
    cuts = sorted(draw.rng.permutation(size - 1)[: count - 1] + 1) if size > 1 else []
    sizes = np.diff([0, *cuts, size]).astype("int64")
    if opset == 11:
        return Sample("Split", (x,), {"axis": axis, "split": sizes.tolist()}, 11, outputs=len(sizes))
    return Sample("Split", (x, sizes), {"axis": axis}, opset, frozenset({1}), outputs=len(sizes))


@family
def pad(draw: Draw) -> Sample:
    mode = draw.pick(("constant", "constant", "reflect", "edge", "wrap"))
    opset = 19 if mode == "wrap" else draw.pick((11, 13, 18, 19))
    dtype = draw.pick(
        ("float32", "float32", "int32", "int64", "float64") + ("float16", "uint8", "bool") * (opset >= 13)
    )
    x = draw.numbers(draw.shape(1, 4, 5), dtype, draw.extremes())
    axes = (
        sorted(a % x.ndim for a in draw.axes(x.ndim))
        if opset >= 18 and draw.chance(0.4)
        else list(range(x.ndim))
    )
    low = [-draw.within(0, x.shape[a] // 2) if mode == "constant" and draw.chance(0.2) else 0 for a in axes]
    most = [{"reflect": x.shape[a] - 1, "wrap": x.shape[a]}.get(mode, 3) for a in axes]
    widths = [b or draw.within(0, m) for b, m in zip(low, most, strict=True)]
    widths += [draw.within(0, m) for m in most]
    value = draw.numbers([], dtype) if mode == "constant" and draw.chance(0.6) else None
    named = (
        np.asarray([a - (x.ndim if draw.chance(0.3) else 0) for a in axes]) if len(axes) < x.ndim else None
    )
    inputs = (x, np.asarray(widths, "int64"), value, *([named] if named is not None else []))
    truth = None
    if min(widths) < 0:  # with which the evaluator fails
        cut = {a: slice(-w, None) for a, w in zip(axes, widths, strict=False) if w < 0}
        part = x[tuple(cut.get(a, slice(None)) for a in range(x.ndim))]
        both = {a: (max(widths[i], 0), widths[i + len(axes)]) for i, a in enumerate(axes)}
        rim = x.dtype.type(0) if value is None else value
        truth = (np.pad(part, [both.get(a, (0, 0)) for a in range(x.ndim)], constant_values=rim),)
    return Sample("Pad", inputs, {"mode": mode}, opset, frozenset({1, 2, 3}), truth=truth)


@family
def part(draw: Draw) -> Sample:
    x = draw.numbers(draw.shape(1, 4, 7), draw.pick(TYPES), draw.extremes())
    axes = draw.axes(x.ndim)
    starts, ends, steps = [], [], []
    for axis in axes:
        n = x.shape[axis]
        step = draw.pick((1, 1, 2, 3, -1, -2))
        first, last = sorted((draw.within(0, n - 1), draw.within(0, n - 1)))
        if step > 0:
            starts.append(first - (n if draw.chance(0.3) else 0))
            ends.append(draw.pick((last + 1, 2**31, 2**63 - 1)))
        else:
            starts.append(draw.pick((last, 2**31)))
            ends.append(draw.pick((-(2**31), -(2**63), first - 1 if first else -n - 1)))
        steps.append(step)
    inputs = [np.asarray(v, "int64") for v in (starts, ends, axes, steps)]
    return Sample("Slice", (x, *inputs), {}, draw.pick((11, 13)), frozenset({1, 2, 3, 4}))


@family
def grown(draw: Draw) -> Sample:
    op = draw.pick(("Tile", "Expand", "EyeLike", "CenterCropPad"))
    dtype = draw.pick(TYPES)
    if op == "Tile":
        x = draw.numbers(draw.shape(1), dtype, draw.extremes())
        return Sample(op, (x, np.asarray(draw.many(x.ndim, 1, 3), "int64")), {}, 13, frozenset({1}))
    if op == "Expand":
        x = draw.numbers([draw.pick((1, n)) for n in draw.shape(0)], dtype, draw.extremes())
        to = [*draw.many(draw.within(0, 2), 1, 3), *(draw.pick((1, n, n if n > 1 else 4)) for n in x.shape)]
        return Sample(op, (x, np.asarray(to, "int64")), {}, 13, frozenset({1}))
    if op == "EyeLike":
        return Sample(
            op,
            (draw.numbers(draw.many(2, 1, 5), "float32"),),
            {"k": draw.within(-3, 3), "dtype": draw.pick((1, 6, 7, 11))},
            9,
        )
    x = draw.numbers(draw.shape(1), draw.pick(("float32", "int64")))
    axes = draw.axes(x.ndim)
    return Sample(
        op, (x, np.asarray(draw.many(len(axes), 1, 8), "int64")), {"axes": axes}, 18, frozenset({1})
    )


@family
def reversed_sequences(draw: Draw) -> Sample:
    time = draw.within(0, 1)
    x = draw.numbers([*draw.many(2, 1, 5), *draw.shape(0, 2)], draw.pick(TYPES), draw.extremes())
    lengths = draw.integers([x.shape[1 - time]], "int64", 1, x.shape[time])
    return Sample("ReverseSequence", (x, lengths), {"time_axis": time, "batch_axis": 1 - time}, 10)


@family
def col2im(draw: Draw) -> Sample:
    n, axes = draw.within(1, 2), draw.within(1, 3)
    image, block = draw.many(axes, 3, 6), draw.many(axes, 1, 3)
    strides, dilations = draw.many(axes, 1, 2), draw.many(axes, 1, 1)
    pads = [draw.within(0, k - 1) for k in block * 2]
    counts = [
        (image[i] + pads[i] + pads[i + axes] - dilations[i] * (block[i] - 1) - 1) // strides[i] + 1
        for i in range(axes)
    ]
    x = draw.reals([n, draw.within(1, 2) * int(np.prod(block)), int(np.prod(counts))])
    attrs = {"strides": strides, "dilations": dilations, "pads": pads}
    return Sample(
        "Col2Im", (x, np.asarray(image), np.asarray(block)), attrs, 18, frozenset({1, 2}), rtol=1e-4
    )
