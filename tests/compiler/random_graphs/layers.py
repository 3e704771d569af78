"""Layers of networks, and nodes with graphs inside, as steps of random graphs."""

from __future__ import annotations

from typing import Any

import numpy as np
from onnx import TensorProto, helper

from tests.compiler.random_graphs.drawing import Drawing, Rejected
from tests.compiler.random_graphs.steps import STEPS, is_float, is_single, of_rank, step
from tests.compiler.samples.sample import Array

CHANNELS = (1, 2, 3, 4, 5, 8, 16, 24)


def weight(g: Drawing, *shape: int) -> str:
    """An initialiser of small random numbers, which keep the size of what they are multiplied with."""
    return g.constant(g.draw.rng.standard_normal(shape) / np.sqrt(max(np.prod(shape[1:]), 1)), "float32")


@step
def convolution(g: Drawing) -> None:
    x = g.pick(of_rank(3, 5, is_single))
    channels, *sizes = g.values[x].shape[1:]
    axes = len(sizes)
    kernel = [g.draw.within(1, min(3, n)) for n in sizes]
    attrs: dict[str, Any] = {"kernel_shape": kernel}
    if g.draw.chance(0.3):
        attrs["strides"] = g.draw.many(axes, 1, 2)
    if g.draw.chance(0.2):
        attrs["dilations"] = [
            g.draw.within(1, 2) if (k - 1) * 2 < n else 1 for k, n in zip(kernel, sizes, strict=True)
        ]
    pads = g.draw.pick(("none", "same", "any", "any"))
    if pads == "same" and "dilations" not in attrs:
        attrs["auto_pad"] = g.draw.pick(("SAME_UPPER", "SAME_LOWER"))
    elif pads == "any":
        attrs["pads"] = [g.draw.within(0, k - 1) for k in kernel * 2]
    groups = g.draw.pick((1, 1, channels, *(d for d in (2, 4) if channels % d == 0)))
    out = groups * g.draw.pick((1, 2)) if groups > 1 else g.draw.pick(CHANNELS)
    parts = [x, weight(g, out, channels // groups, *kernel)]
    if g.draw.chance():
        parts.append(weight(g, out))
    y = g.one("Conv", parts, group=groups, **attrs)
    if g.draw.chance(0.4):
        y = normalised(g, y)
    if g.draw.chance():
        g.add(g.draw.pick(("Relu", "Sigmoid", "LeakyRelu", "Tanh")), [y])


def normalised(g: Drawing, x: str) -> str:
    """Batch normalisation of a value."""
    if g.opset < 14:
        raise Rejected  # the evaluator takes an older one for training
    channels = g.values[x].shape[1]
    parts = [g.constant(g.draw.rng.uniform(0.5, 1.5, channels), "float32") for _ in range(4)]
    return g.one("BatchNormalization", [x, *parts])


@step
def transposed_convolution(g: Drawing) -> None:
    x = g.pick(of_rank(3, 4, is_single))
    channels, *sizes = g.values[x].shape[1:]
    kernel = g.draw.many(len(sizes), 1, 3)
    strides = [g.draw.within(1, k) for k in kernel]
    attrs: dict[str, Any] = {"pads": [g.draw.within(0, (k - 1) // 2) for k in kernel * 2]}
    if g.draw.chance(0.3):
        attrs["output_padding"] = [g.draw.within(0, s - 1) for s in strides]
    parts = [x, weight(g, channels, g.draw.pick(CHANNELS[:6]), *kernel)]
    g.add("ConvTranspose", parts, strides=strides, kernel_shape=kernel, **attrs)


@step
def pool(g: Drawing) -> None:
    x = g.pick(of_rank(3, 5, is_single))
    if g.draw.chance(0.3):
        g.add("GlobalMaxPool" if g.values[x].ndim == 4 and g.draw.chance() else "GlobalAveragePool", [x])
        return
    sizes = g.values[x].shape[2:]
    kernel = [g.draw.within(1, min(3, n)) for n in sizes]
    attrs: dict[str, Any] = {"kernel_shape": kernel, "strides": g.draw.many(len(sizes), 1, 2)}
    op = g.draw.pick(("MaxPool", "AveragePool"))
    if g.draw.chance(0.4):
        attrs["pads"] = [g.draw.within(0, k // 2) for k in kernel] * 2
    if op == "AveragePool" and g.draw.chance(0.4):
        attrs["count_include_pad"] = 1
    g.add(op, [x], **attrs)


@step
def normalisation(g: Drawing) -> None:
    op = g.draw.pick(
        ("BatchNormalization", "InstanceNormalization", "LayerNormalization", "GroupNormalization", "written")
    )
    x = g.pick(of_rank(1 if op in ("LayerNormalization", "written") else 3, 5, is_single))
    shape = g.values[x].shape
    if op == "BatchNormalization":
        normalised(g, x)
    elif op == "LayerNormalization":
        axis = g.draw.within(1 - len(shape), -1) if len(shape) > 1 else -1
        if g.opset < 17:
            raise Rejected
        g.add(op, [x, weight(g, *shape[axis:]), weight(g, *shape[axis:])], axis=axis)
    elif op == "written":  # as exporters write it out
        axes = {"axes": [-1]} if g.opset < 18 else {}
        last = [] if axes else [g.constant([-1], "int64")]
        middle = g.one("Sub", [x, g.one("ReduceMean", [x, *last], **axes)])
        square = g.one("Pow", [middle, g.constant(2.0, "float32")])
        spread = g.one(
            "Sqrt",
            [g.one("Add", [g.one("ReduceMean", [square, *last], **axes), g.constant(1e-3, "float32")])],
        )
        scaled = g.one("Mul", [g.one("Div", [middle, spread]), weight(g, shape[-1])])
        g.add("Add", [scaled, weight(g, shape[-1])])
    elif op == "InstanceNormalization":
        g.add(op, [x, weight(g, shape[1]), weight(g, shape[1])], epsilon=1e-3)
    else:
        groups = [d for d in (1, 2, 4) if shape[1] % d == 0]
        if g.opset < 21:
            raise Rejected
        g.add(op, [x, weight(g, shape[1]), weight(g, shape[1])], num_groups=g.draw.pick(groups), epsilon=1e-3)


@step
def product(g: Drawing) -> None:
    kind = g.draw.pick(("right", "right", "left", "self", "gemm", "einsum", "both"))
    x = g.pick(of_rank(2, 2 if kind == "gemm" else 4, is_single))
    shape = g.values[x].shape
    n = g.draw.pick((1, 3, 4, 8, 16, 17))
    if kind == "right":
        y = g.one("MatMul", [x, weight(g, shape[-1], n)])
        if g.draw.chance():
            g.add("Add", [y, weight(g, n)] if g.draw.chance() else [weight(g, n), y])
    elif kind == "left":
        g.add("MatMul", [weight(g, n, shape[-2]), x])
    elif kind == "gemm":
        transposed = g.draw.within(0, 1)
        w = weight(g, n, shape[1]) if transposed else weight(g, shape[1], n)
        parts = [x, w, *([weight(g, n)] if g.draw.chance() else [])]
        g.add("Gemm", parts, transB=transposed, alpha=g.draw.pick((1.0, 0.5)), beta=g.draw.pick((1.0, 2.0)))
    elif kind == "einsum":
        if g.opset < 12:
            raise Rejected
        free = "abcd"[: len(shape) - 1]
        g.add(
            "Einsum",
            [x, weight(g, shape[-1], n)],
            equation=f"{free}k,kn->{g.draw.pick((free + 'n', 'n' + free))}",
        )
    elif kind == "both":
        others = [m for m, v in g.values.items() if is_single(v) and v.ndim >= 2 and v.shape[-2] == shape[-1]]
        if not others:
            raise Rejected
        g.add("MatMul", [x, g.draw.pick(others)])
    else:
        _attention(g, x)


def _attention(g: Drawing, x: str) -> None:
    """Softmax of products of a value with itself, as in attention."""
    rank = g.values[x].ndim
    turned = g.one("Transpose", [x], perm=[*range(rank - 2), rank - 1, rank - 2])
    scores = g.one("MatMul", [x, turned])
    scores = g.one("Mul" if g.draw.chance() else "Div", [scores, g.constant(0.5, "float32")])
    if g.draw.chance(0.3):
        scores = g.one("Add", [scores, g.either(g.draw.reals(g.values[scores].shape[-2:]))])
    if g.opset < 13:
        raise Rejected
    g.add("MatMul", [g.one("Softmax", [scores], axis=-1), x])


@step
def resized(g: Drawing) -> None:
    x = g.pick(of_rank(4, 4, is_single))
    b, c, h, w = g.values[x].shape
    kind = g.draw.pick(("resize", "resize", "space", "depth"))
    if kind == "space":
        if h % 2 or w % 2:
            raise Rejected
        g.add("SpaceToDepth", [x], blocksize=2)
    elif kind == "depth":
        if c % 4:
            raise Rejected
        g.add("DepthToSpace", [x], blocksize=2, mode=g.draw.pick(("DCR", "CRD")))
    else:
        if g.opset < 13:
            raise Rejected
        mode = g.draw.pick(("nearest", "linear"))
        where = g.draw.pick(("asymmetric", "half_pixel", "align_corners"))
        attrs = {"nearest_mode": "floor"} if mode == "nearest" else {}
        sizes = g.constant([b, c, h * 2, w + g.draw.within(0, 3)], "int64")
        g.add("Resize", [x, "", "", sizes], mode=mode, coordinate_transformation_mode=where, **attrs)


@step
def recurrent(g: Drawing) -> None:
    x = g.pick(of_rank(3, 3, is_single))
    size, hidden = g.values[x].shape[2], g.draw.pick((1, 3, 4))
    op, gates = g.draw.pick((("LSTM", 4), ("GRU", 3), ("RNN", 1)))
    parts = [x, weight(g, 1, gates * hidden, size), weight(g, 1, gates * hidden, hidden)]
    if g.draw.chance():
        parts.append(weight(g, 1, 2 * gates * hidden))
    more: dict[str, Any] = {"linear_before_reset": g.draw.within(0, 1)} if op == "GRU" else {}
    g.add(op, parts, 3 if op == "LSTM" else 2, hidden_size=hidden, **more)


def inner(g: Drawing, steps: int, start: str | None = None) -> str:
    """Draw steps inside of a branch or a body, and return the last value made.

    Args:
        start: a value that the first of them is likely to read; by default any.
    """
    names = sorted(INSIDE)
    for _ in range(steps * 3):
        before = len(g.nodes)
        try:
            STEPS[g.draw.pick(names)](g)
        except Rejected:
            continue
        steps -= len(g.nodes) > before
        if steps <= 0:
            break
    if not g.nodes:
        raise Rejected
    return g.nodes[-1].output[0]


INSIDE = (
    "unary", "gated", "binary", "truths", "clip", "reduction", "moved", "reshaped", "joined", "parted", "padded",
    "product", "convolution", "normalisation", "gathered", "counted",
)  # fmt: skip


@step
def branches(g: Drawing) -> None:
    """An If; the values of both branches are of one type, and may differ in shape."""
    if g.outer is not None and g.outer.outer is not None:
        raise Rejected
    if g.draw.chance():
        condition = g.either(g.draw.chance(), "bool")
    else:
        total = g.one("ReduceMean", [g.pick(of_rank(0, kind=is_single))], keepdims=0)
        condition = g.one("Greater", [total, g.constant(0.1, "float32")])
    sides = []
    for _ in range(2):
        side = g.branch()
        last = inner(side, g.draw.within(1, 3))
        if not is_single(side.values[last]):
            raise Rejected
        sides.append(side.graph([last]))
    g.add("If", [condition], then_branch=sides[0], else_branch=sides[1])


@step
def repeated(g: Drawing) -> None:
    """A Loop that changes a value and collects something of every round."""
    if g.outer is not None:
        raise Rejected
    x = g.pick(of_rank(1, 4, is_single))
    body = g.branch()
    number = body.keep("i", np.asarray(0, "int64"), np.asarray(0, "int64"))
    going = body.keep("go", np.asarray(True), np.asarray(True))
    state = body.keep("s", g.values[x], g.shadows[x])
    last = inner(body, g.draw.within(1, 3))
    row = body.one("Sigmoid", [state])
    if g.values[x].shape == body.values[last].shape and is_single(body.values[last]):
        after = body.one("Tanh", [last])
    else:
        after = body.one("Mul", [row, state])
    stay = body.one("Identity", [going])
    ports = [
        helper.make_tensor_value_info(number, TensorProto.INT64, []),
        helper.make_tensor_value_info(going, TensorProto.BOOL, []),
        helper.make_tensor_value_info(state, TensorProto.FLOAT, None),
    ]
    made = body.graph([stay, after, row], ports)
    count = g.either(g.draw.within(1, 4), "int64")
    g.add("Loop", [count, "" if g.draw.chance() else g.constant(True, "bool"), x], 2, body=made)


@step
def sequence(g: Drawing) -> None:
    """Pieces of a value in a sequence, joined again or one of them taken."""
    x = g.pick(of_rank(1, 4, is_float))
    value = g.values[x]
    axis = g.draw.within(0, value.ndim - 1)
    pieces = g.name("q")
    g.nodes.append(helper.make_node("SplitToSequence", [x], [pieces], axis=axis, keepdims=1))
    parts = np.split(value, value.shape[axis], axis)
    if g.draw.chance():
        place = g.draw.within(-len(parts), len(parts) - 1)
        made: Array = parts[place]
        name = g.keep("v", made, np.split(g.shadows[x], len(parts), axis)[place])
        g.nodes.append(helper.make_node("SequenceAt", [pieces, g.either(place, "int64")], [name]))
    else:
        name = g.keep("v", value, g.shadows[x])
        g.nodes.append(helper.make_node("ConcatFromSequence", [pieces], [name], axis=axis))
