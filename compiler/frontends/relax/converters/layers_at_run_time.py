"""Convolutions, pools, products, reductions and normalisations of tensors whose sizes are known only at run time."""

from __future__ import annotations

from collections.abc import Sequence

from tvm import relax, tirx

from edgec.compiler.frontends.relax.amounts import as_tensor
from edgec.compiler.frontends.relax.builder import Expr, constant
from edgec.compiler.frontends.relax.converters.broadcasting import aligned
from edgec.compiler.frontends.relax.converters.convolution import CONV, LAYOUT, TRANSPOSED
from edgec.compiler.frontends.relax.converters.pooling import powers_of, root_of
from edgec.compiler.frontends.relax.converters.registry import (
    CannotConvert,
    Node,
    axis_of,
    converts_dynamic,
    dtype_of,
    reshaped,
    scalar,
)
from edgec.compiler.frontends.relax.converters.sizes_at_run_time import (
    common_size,
    spread_to,
    viewed,
    with_sizes,
)
from edgec.compiler.frontends.relax.dims import Dim, bound, cast_to, dims_of, is_same, is_static, size
from edgec.compiler.kernels import dynamic


def pads_of(
    node: Node, sizes: Sequence[Dim], kernel: Sequence[int], strides: Sequence[int], dilations: Sequence[int]
) -> tuple[list[Dim], list[Dim]]:
    """What is added before and behind each spatial axis, with `auto_pad` resolved."""
    auto, n = str(node.attrs.get("auto_pad", "NOTSET")), len(kernel)
    if auto == "NOTSET":
        given = [int(p) for p in node.attrs.get("pads") or [0] * (2 * n)]
        return given[:n], given[n:]
    if auto == "VALID":
        return [0] * n, [0] * n
    before: list[Dim] = []
    behind: list[Dim] = []
    for length, k, s, d in zip(sizes, kernel, strides, dilations, strict=True):
        steps = tirx.floordiv(_expr(length) + (s - 1), _expr(s))
        total = size(tirx.max((steps - 1) * s + ((k - 1) * d + 1) - _expr(length), 0))
        small = total // 2 if isinstance(total, int) else tirx.floordiv(total, _expr(2))
        large = total - small
        before.append(small if auto == "SAME_UPPER" else large)
        behind.append(large if auto == "SAME_UPPER" else small)
    return before, behind


def _expr(value: Dim) -> Expr:
    return tirx.IntImm("int64", value) if isinstance(value, int) else value


def _window(node: Node, kernel: Sequence[int]) -> tuple[list[int], list[int]]:
    strides = [int(s) for s in node.attrs.get("strides") or [1] * len(kernel)]
    dilations = [int(d) for d in node.attrs.get("dilations") or [1] * len(kernel)]
    return strides, dilations


@converts_dynamic("Conv")
def _conv(node: Node) -> Expr:
    return _with_bias(node, convolved(node, node.input(0), node.input(1)))


def convolved(node: Node, x: Expr, w: Expr) -> Expr:
    """The convolution without the bias, by the node's attributes."""
    sizes = dims_of(x)
    if not is_static(w) or len(sizes) not in CONV:
        raise CannotConvert(
            "only convolutions with weights of known sizes and of one to three axes are compiled"
        )
    kernel = [int(k) for k in dims_of(w)[2:]]
    strides, dilations = _window(node, kernel)
    before, behind = pads_of(node, sizes[2:], kernel, strides, dilations)
    if any(not isinstance(p, int) for p in (*before, *behind)):
        x = _padded(node, x, before, behind)
        before = behind = [0] * len(kernel)
    groups = int(node.attrs.get("group", 1))
    channels = int(dims_of(w)[1]) * groups
    if not is_same(dims_of(x)[1], channels):
        x = cast_to(node.builder, x, [dims_of(x)[0], channels, *dims_of(x)[2:]])
    data, weights, _ = LAYOUT[len(sizes)]
    return node.emit(
        CONV[len(sizes)](
            x, w, strides=strides, padding=[*before, *behind], dilation=dilations, groups=groups,
            data_layout=data, kernel_layout=weights,
        )
    )  # fmt: skip


def _with_bias(node: Node, y: Expr) -> Expr:
    if not node.has(2):
        return y
    bias = node.input(2)
    shape = [1, dims_of(bias)[0], *[1] * (len(dims_of(y)) - 2)]
    return relax.op.add(y, node.emit(reshaped(bias, shape)))


@converts_dynamic("ConvTranspose")
def _conv_transpose(node: Node) -> Expr:
    x, w = node.input(0), node.input(1)
    rank = len(dims_of(x))
    if not is_static(w) or rank not in TRANSPOSED or str(node.attrs.get("auto_pad", "NOTSET")) != "NOTSET":
        raise CannotConvert("its padding or weights depend on sizes known only at run time")
    if node.attrs.get("output_shape"):
        raise CannotConvert("its padding depends on sizes known only at run time")
    kernel = [int(k) for k in dims_of(w)[2:]]
    strides, dilations = _window(node, kernel)
    pads = [int(p) for p in node.attrs.get("pads") or [0] * (2 * len(kernel))]
    further = [int(p) for p in node.attrs.get("output_padding") or [0] * len(kernel)]
    data, _, weights = LAYOUT[rank]
    y = node.emit(
        TRANSPOSED[rank](
            x, w, strides=strides, padding=pads, output_padding=further, dilation=dilations,
            groups=int(node.attrs.get("group", 1)), data_layout=data, kernel_layout=weights,
        )
    )  # fmt: skip
    return _with_bias(node, y)


def _padded(
    node: Node, x: Expr, before: Sequence[Dim], behind: Sequence[Dim], value: Expr | None = None
) -> Expr:
    own = dims_of(x)
    ahead: list[Dim] = [0, 0, *before]
    shape = [*own[:2]] + [
        bound(node.builder, a + p + q) for a, p, q in zip(own[2:], before, behind, strict=True)
    ]
    first = [bound(node.builder, a) for a in ahead]

    def define(data: Expr, skipped: Sequence[Dim], sizes: Sequence[Dim], *given: Expr) -> Expr:
        return dynamic.padded(data, skipped, sizes, "constant", *given)

    return node.builder.emit_te(define, x, first, shape, *([] if value is None else [value]))


@converts_dynamic("MaxPool", "AveragePool", "LpPool")
def _pool(node: Node) -> Expr:
    if len(node.outputs) > 1 and node.outputs[1]:
        raise CannotConvert("the indices of maxima are not compiled for sizes known only at run time")
    x, kernel = node.input(0), [int(k) for k in node.attrs["kernel_shape"]]
    sizes = dims_of(x)
    strides, dilations = _window(node, kernel)
    before, behind = pads_of(node, sizes[2:], kernel, strides, dilations)
    before, behind = ([bound(node.builder, p) for p in side] for side in (before, behind))
    out = [
        bound(node.builder, _pooled(length, p + q, p, k, s, d, ceil=bool(node.attrs.get("ceil_mode", 0))))
        for length, p, q, k, s, d in zip(sizes[2:], before, behind, kernel, strides, dilations, strict=True)
    ]
    largest = node.op_type == "MaxPool"
    if largest:
        return node.builder.emit_te(
            dynamic.max_pool, x, kernel, strides, dilations, before, [*sizes[:2], *out]
        )
    if node.op_type == "LpPool":
        p = int(node.attrs.get("p", 2))
        powers = node.emit(powers_of(x, p))
        shape = [*sizes[:2], *out]
        return root_of(
            node.builder.emit_te(dynamic.sum_pool, powers, kernel, strides, dilations, before, shape), p
        )
    counts = bool(node.attrs.get("count_include_pad", 0))
    return node.builder.emit_te(
        dynamic.average_pool, x, kernel, strides, dilations, before, behind, [*sizes[:2], *out], counts
    )


def _pooled(length: Dim, pads: Dim, before: Dim, k: int, s: int, d: int, *, ceil: bool) -> Dim:
    reach = length + pads - ((k - 1) * d + 1)
    if not ceil:
        return (reach // s if isinstance(reach, int) else tirx.floordiv(reach, _expr(s))) + 1
    count = (-(-reach // s) if isinstance(reach, int) else tirx.floordiv(reach + (s - 1), _expr(s))) + 1
    # a last window that begins behind the data is dropped
    outside = (count - 1) * s >= length + before
    if isinstance(outside, bool):
        return count - outside
    return tirx.Select(outside, count - 1, _expr(count))


@converts_dynamic("GlobalAveragePool", "GlobalMaxPool")
def _global_pool(node: Node) -> Expr:
    x = node.input(0)
    axes = list(range(2, len(dims_of(x))))
    if node.op_type == "GlobalMaxPool":
        return node.builder.emit_te(dynamic.extremes, x, axes, True, True)
    return relax.op.mean(x, axes, keepdims=True)


@converts_dynamic("MatMul")
def _matmul(node: Node) -> Expr:
    return product_of(node, node.input(0), node.input(1))


def product_of(node: Node, a: Expr, b: Expr) -> Expr:
    """The matrix product, with the sizes that have to agree stated to do so."""
    left, right = dims_of(a), dims_of(b)
    place = max(len(right) - 2, 0)
    if not is_same(left[-1], right[place]):
        if isinstance(right[place], int):
            a = cast_to(node.builder, a, [*left[:-1], right[place]])
        else:
            b = cast_to(node.builder, b, [*right[:place], left[-1], *right[place + 1 :]])
    if len(left) > 2 and len(right) > 2:
        a, b = _same_batch(node, a, b)
    return relax.op.matmul(a, b)


def _same_batch(node: Node, a: Expr, b: Expr) -> tuple[Expr, Expr]:
    """Both factors with the batch axes of both."""
    left, right = dims_of(a), dims_of(b)
    rank = max(len(left), len(right)) - 2
    own = [[1] * (rank + 2 - len(one)) + one[:-2] for one in (left, right)]
    common = [bound(node.builder, common_size(node, p, q)) for p, q in zip(*own, strict=True)]
    return spread_to(node, a, [*common, *left[-2:]]), spread_to(node, b, [*common, *right[-2:]])


@converts_dynamic("Gemm")
def _gemm(node: Node) -> Expr:
    a, b = node.input(0), node.input(1)
    if node.attrs.get("transA", 0):
        a = node.emit(relax.op.permute_dims(a, [1, 0]))
    if node.attrs.get("transB", 0):
        b = node.emit(relax.op.permute_dims(b, [1, 0]))
    y = node.emit(product_of(node, a, b))
    alpha, beta = float(node.attrs.get("alpha", 1.0)), float(node.attrs.get("beta", 1.0))
    if alpha != 1.0:
        y = node.emit(relax.op.multiply(y, scalar(alpha, y)))
    if not node.has(2) or beta == 0.0:
        return y
    c = node.input(2) if beta == 1.0 else node.emit(relax.op.multiply(node.input(2), scalar(beta, y)))
    return relax.op.add(*aligned(node, [y, c]))


REDUCED = {
    "ReduceSum": relax.op.sum,
    "ReduceMean": relax.op.mean,
    "ReduceProd": relax.op.prod,
}


@converts_dynamic(
    *("ReduceSum", "ReduceMean", "ReduceProd", "ReduceMax", "ReduceMin", "ReduceL1", "ReduceL2"),
    *("ReduceSumSquare", "ReduceLogSum", "ReduceLogSumExp"),
)
def _reduce(node: Node) -> Expr:
    x, kind = node.input(0), node.op_type
    rank, axes = len(dims_of(x)), node.ints("axes", 1)
    if not axes and node.attrs.get("noop_with_empty_axes", 0):
        return x
    chosen = [axis_of(a, rank) for a in axes] if axes else list(range(rank))
    keeps = bool(node.attrs.get("keepdims", 1))
    if kind in REDUCED:
        return REDUCED[kind](x, chosen, keepdims=keeps)
    if kind in ("ReduceMax", "ReduceMin"):
        if dtype_of(x) == "bool":
            raise CannotConvert(
                "reductions of truth values are not compiled for sizes known only at run time"
            )
        return node.builder.emit_te(dynamic.extremes, x, chosen, keeps, kind == "ReduceMax")
    if kind == "ReduceL1":
        return relax.op.sum(node.emit(relax.op.abs(x)), chosen, keepdims=keeps)
    if kind in ("ReduceL2", "ReduceSumSquare"):
        total = node.emit(relax.op.sum(node.emit(relax.op.multiply(x, x)), chosen, keepdims=keeps))
        return relax.op.sqrt(total) if kind == "ReduceL2" else total
    if kind == "ReduceLogSum":
        return relax.op.log(node.emit(relax.op.sum(x, chosen, keepdims=keeps)))
    top = node.builder.emit_te(dynamic.extremes, x, chosen, True, True)
    shift = node.emit(relax.op.where(node.emit(relax.op.isinf(top)), scalar(0.0, top), top))
    powers = node.emit(relax.op.exp(node.emit(relax.op.subtract(x, shift))))
    total = node.emit(relax.op.log(node.emit(relax.op.sum(powers, chosen, keepdims=True))))
    result = node.emit(relax.op.add(total, shift))
    return result if keeps else relax.op.squeeze(result, chosen)


@converts_dynamic("ArgMax", "ArgMin")
def _arg(node: Node) -> list[Expr]:
    x, from_end = node.input(0), bool(node.attrs.get("select_last_index", 0))
    function = relax.op.argmax if node.op_type == "ArgMax" else relax.op.argmin
    axis, keeps = int(node.attrs.get("axis", 0)), bool(node.attrs.get("keepdims", 1))
    axis = axis_of(axis, len(dims_of(x)))
    if from_end:
        x = node.builder.emit_te(dynamic.reversed_along, x, axis)
    found = node.emit(function(x, axis, keepdims=keeps))
    found = found if dtype_of(found) == "int64" else node.emit(relax.op.astype(found, "int64"))
    if not from_end:
        return [found]
    last = as_tensor(node, [size(dims_of(x)[axis] - 1)], [])
    return [node.emit(relax.op.subtract(last, found))]


@converts_dynamic("Hardmax")
def _hardmax(node: Node) -> Expr:
    x = node.input(0)
    if node.opset < 13:
        raise CannotConvert(
            "Hardmax of operator sets below 13 is not compiled for sizes known only at run time"
        )
    axis = axis_of(int(node.attrs.get("axis", -1)), len(dims_of(x)))
    found = node.emit(relax.op.argmax(x, axis))
    return node.builder.emit_te(dynamic.hardmax, x, found, axis)


@converts_dynamic("BatchNormalization")
def _batch_normalization(node: Node) -> list[Expr]:
    x = node.input(0)
    gain, shift, mean, variance = (_by_channel(node, i) for i in range(1, 5))
    results: list[Expr] = []
    if node.attrs.get("training_mode", 0):
        old, axes = (mean, variance), [a for a in range(len(dims_of(x))) if a != 1]
        mean = node.emit(relax.op.mean(x, axes, keepdims=True))
        centred = node.emit(relax.op.subtract(x, mean))
        variance = node.emit(
            relax.op.mean(node.emit(relax.op.multiply(centred, centred)), axes, keepdims=True)
        )
        momentum = float(node.attrs.get("momentum", 0.9))
        for before, now in zip(old, (mean, variance), strict=True):
            kept = node.emit(relax.op.multiply(before, scalar(momentum, before)))
            moved = node.emit(
                relax.op.add(kept, node.emit(relax.op.multiply(now, scalar(1 - momentum, now))))
            )
            results.append(viewed(node, moved, [dims_of(x)[1]]))
    epsilon = constant(float(node.attrs.get("epsilon", 1e-5)), dtype_of(variance))
    root = node.emit(relax.op.sqrt(node.emit(relax.op.add(variance, epsilon))))
    factor = node.emit(relax.op.divide(gain, root))
    offset = node.emit(relax.op.subtract(shift, node.emit(relax.op.multiply(mean, factor))))
    return [relax.op.add(node.emit(relax.op.multiply(x, factor)), offset), *results]


@converts_dynamic("InstanceNormalization")
def _instance_normalization(node: Node) -> Expr:
    x = node.input(0)
    axes = list(range(2, len(dims_of(x))))
    scaled = _standardised(node, x, axes, float(node.attrs.get("epsilon", 1e-5)), centred=True)
    gained = node.emit(relax.op.multiply(scaled, _by_channel(node, 1)))
    return relax.op.add(gained, _by_channel(node, 2))


def _by_channel(node: Node, position: int) -> Expr:
    """A vector with a number for each channel of the first input, along the axis of channels."""
    sizes = dims_of(node.input(0))
    vector = with_sizes(node, node.input(position), [sizes[1]])
    return viewed(node, vector, [1, sizes[1], *[1] * (len(sizes) - 2)])


def _standardised(node: Node, x: Expr, axes: list[int], epsilon: float, *, centred: bool) -> Expr:
    """Divided by the root of the mean square, of deviations from the mean if `centred`."""
    if centred:
        x = node.emit(relax.op.subtract(x, node.emit(relax.op.mean(x, axes, keepdims=True))))
    power = node.emit(relax.op.mean(node.emit(relax.op.multiply(x, x)), axes, keepdims=True))
    root = node.emit(relax.op.sqrt(node.emit(relax.op.add(power, scalar(epsilon, x)))))
    return node.emit(relax.op.divide(x, root))


@converts_dynamic("LayerNormalization", "RMSNormalization")
def _layer_normalization(node: Node) -> list[Expr]:
    x, kind = node.input(0), dtype_of(node.input(0))
    rank, epsilon = len(dims_of(x)), float(node.attrs.get("epsilon", 1e-5))
    axes = list(range(axis_of(int(node.attrs.get("axis", -1)), rank), rank))
    wide = x if kind == "float32" else node.emit(relax.op.astype(x, "float32"))
    mean = node.emit(relax.op.mean(wide, axes, keepdims=True))
    if node.op_type == "LayerNormalization":
        wide = node.emit(relax.op.subtract(wide, mean))
    power = node.emit(relax.op.mean(node.emit(relax.op.multiply(wide, wide)), axes, keepdims=True))
    root = node.emit(relax.op.sqrt(node.emit(relax.op.add(power, scalar(epsilon, power)))))
    inverse = node.emit(relax.op.divide(scalar(1.0, root), root))
    y = node.emit(relax.op.multiply(wide, inverse))
    y = y if kind == "float32" else node.emit(relax.op.astype(y, kind))
    if node.has(1):
        y = node.emit(relax.op.multiply(*aligned(node, [y, node.input(1)])))
    if node.has(2):
        y = node.emit(relax.op.add(*aligned(node, [y, node.input(2)])))
    return [y, mean, inverse]
