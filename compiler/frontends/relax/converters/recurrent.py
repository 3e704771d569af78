"""LSTM, GRU and RNN: a matrix product for the inputs of all steps, then a kernel that walks them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from tvm import relax

from edgec.compiler.frontends.relax.builder import Expr, constant
from edgec.compiler.frontends.relax.converters.registry import (
    CannotConvert,
    Node,
    converts,
    converts_dynamic,
    is_constant,
    reshaped,
    shape_of,
    value_of,
)
from edgec.compiler.frontends.relax.converters.sizes_at_run_time import viewed, with_sizes
from edgec.compiler.frontends.relax.converters.slicing import sliced
from edgec.compiler.frontends.relax.dims import Dim, dims_of, is_same, is_static
from edgec.compiler.kernels import dynamic
from edgec.compiler.kernels.recurrent import GATES, Named, RecurrentKernel, activation, block_width, blocked

DEFAULTS = {"LSTM": ["Sigmoid", "Tanh", "Tanh"], "GRU": ["Sigmoid", "Tanh"], "RNN": ["Tanh"]}
# positions of inputs; those of the cell state and the peepholes are of LSTMs only
X, W, R, B, LENGTHS, H0, C0, P = range(8)


@dataclass(frozen=True)
class _Sizes:
    steps: Dim
    batch: Dim
    inputs: int
    hidden: int
    directions: int


@dataclass(frozen=True)
class Products:
    """How a layer multiplies with its weights.

    Attributes:
        inputs: the product of inputs `[steps * batch, inputs]` with the weights of a direction, without its bias.
        recurrence: arguments of the kernel for the recurrence weights of a direction.
        kernel: makes the kernel of a direction.
    """

    inputs: Callable[[Expr, int], Expr]
    recurrence: Callable[[int], list[Expr]]
    kernel: Callable[..., RecurrentKernel]


@converts("LSTM", "GRU", "RNN")
@converts_dynamic("LSTM", "GRU", "RNN")
def _recurrent(node: Node) -> list[Expr]:
    directions, _, hidden = node.shape(R)

    def inputs(x: Expr, d: int) -> Expr:
        return relax.op.matmul(x, _transposed(node, _row(node, node.input(W), d)))

    def recurrence(d: int) -> list[Expr]:
        return [_blocked(node, _row(node, node.input(R), d), hidden)]

    products = Products(inputs, recurrence, RecurrentKernel)
    return recurrent_layer(node, directions, node.shape(W)[2], hidden, products)


def recurrent_layer(node: Node, directions: int, inputs: int, hidden: int, products: Products) -> list[Expr]:
    """The outputs of an LSTM, GRU or RNN.

    Raises:
        CannotConvert: an attribute or its sizes have no kernel.
    """
    batch_first = bool(node.attrs.get("layout", 0))
    x = node.input(X)
    if batch_first:
        x = node.emit(relax.op.permute_dims(x, [1, 0, 2]))
    steps, batch, _ = dims_of(x)
    x = with_sizes(node, x, [steps, batch, inputs])
    sizes = _Sizes(steps, batch, inputs, hidden, directions)
    if is_same(steps, 0) or node.dtype(X) != "float32":
        raise CannotConvert("only fp32 sequences of at least one step are compiled")
    names = {"forward": [False], "reverse": [True], "bidirectional": [False, True]}
    ways = names.get(str(node.attrs.get("direction", "forward")).lower(), [])
    if len(ways) != directions:
        raise CannotConvert("its direction does not fit its weights")
    rows = viewed(node, x, [sizes.steps * sizes.batch, sizes.inputs])
    parts = [_direction(node, products, rows, d, way, sizes) for d, way in enumerate(ways)]
    return [_join(node, [part[i] for part in parts], i, batch_first) for i in range(len(parts[0]))]


def _join(node: Node, parts: list[Expr], position: int, batch_first: bool) -> Expr:
    """Directions stacked: Y as `[steps, directions, batch, hidden]`, states without the steps."""
    shape = dims_of(parts[0])
    axis = 1 if position == 0 else 0
    whole = [viewed(node, part, [*shape[:axis], 1, *shape[axis:]]) for part in parts]
    joined = whole[0] if len(whole) == 1 else relax.op.concat(whole, axis)
    if batch_first:
        joined = relax.op.permute_dims(joined, [2, 0, 1, 3] if position == 0 else [1, 0, 2])
    return joined


def _direction(
    node: Node, products: Products, rows: Expr, d: int, reverse: bool, sizes: _Sizes
) -> list[Expr]:
    op, n = node.op_type, GATES[node.op_type]
    batch_first = bool(node.attrs.get("layout", 0))
    kernel = _kernel(node, d, reverse, sizes, products.kernel)
    gates = products.inputs(rows, d)
    reset_bias = constant(np.zeros(sizes.hidden, "float32"))
    if node.has(B):
        bias, reset_bias = _biases(node, d, sizes, split_reset=kernel.linear_before_reset)
        gates = relax.op.add(gates, bias)
    gates = viewed(node, node.emit(gates), [sizes.steps, sizes.batch, n * sizes.hidden])
    state = [_state(node, H0, d, sizes, batch_first)]
    if op == "LSTM":
        state.append(_state(node, C0, d, sizes, batch_first))
    arguments = [gates, *products.recurrence(d), *state]
    if kernel.peepholes:
        arguments.append(node.emit(reshaped(_row(node, node.input(P), d), [3, sizes.hidden])))
    if kernel.linear_before_reset:
        arguments.append(reset_bias)
    if kernel.lengths:
        lengths = node.emit(relax.op.astype(node.input(LENGTHS), "int32"))
        if isinstance(sizes.steps, int):  # longer ones would reach memory beyond the sequence
            zero, all_steps = constant(0, "int32"), constant(sizes.steps, "int32")
            lengths = node.emit(relax.op.minimum(node.emit(relax.op.maximum(lengths, zero)), all_steps))
        arguments.append(with_sizes(node, lengths, [sizes.batch]))
    symbol = node.builder.get_unique_name(f"{op.lower()}_{'reverse' if reverse else 'forward'}")
    function = node.builder.add_func(kernel.build(symbol), symbol)
    out = (sizes.batch, sizes.hidden)
    types = [relax.TensorType((sizes.steps, *out), "float32")]
    types += [relax.TensorType(out, "float32")] * (2 if op == "LSTM" else 1)
    called = node.emit(relax.call_tir(function, [_bound(node, a) for a in arguments], types))
    return [node.emit(relax.TupleGetItem(called, i)) for i in range(len(types))]


def _bound(node: Node, value: Expr) -> Expr:
    return value if isinstance(value, relax.Var) or is_constant(value) else node.emit(value)


def _kernel(
    node: Node, d: int, reverse: bool, sizes: _Sizes, kind: Callable[..., RecurrentKernel]
) -> RecurrentKernel:
    op, attrs = node.op_type, node.attrs
    per_way = len(DEFAULTS[op])
    names = attrs.get("activations") or DEFAULTS[op] * sizes.directions
    alphas, betas = list(attrs.get("activation_alpha") or []), list(attrs.get("activation_beta") or [])
    chosen: list[Named] = []
    for name in names[d * per_way : (d + 1) * per_way]:
        takes_alpha = name.lower() in (
            "affine", "leakyrelu", "thresholdedrelu", "scaledtanh", "hardsigmoid", "elu"
        )  # fmt: skip
        takes_beta = name.lower() in ("affine", "scaledtanh", "hardsigmoid")
        alpha = alphas.pop(0) if alphas and takes_alpha else None
        beta = betas.pop(0) if betas and takes_beta else None
        if activation(name, alpha, beta) is None:
            raise CannotConvert(f"its activation {name!r} is unknown")
        chosen.append((name, alpha, beta))
    return kind(
        op_type=op,
        steps=sizes.steps,
        batch=sizes.batch,
        hidden=sizes.hidden,
        activations=tuple(chosen),
        reverse=reverse,
        clip=attrs.get("clip"),
        input_forget=bool(attrs.get("input_forget", 0)),
        linear_before_reset=op == "GRU" and bool(attrs.get("linear_before_reset", 0)),
        peepholes=op == "LSTM" and node.has(P),
        lengths=node.has(LENGTHS) and not all_full(node, sizes.steps),
    )


def all_full(node: Node, steps: Dim) -> bool:
    """Whether the lengths are known to be those of the whole sequence."""
    lengths = node.input(LENGTHS)
    return is_constant(lengths) and isinstance(steps, int) and bool((value_of(lengths) == steps).all())


def _row(node: Node, value: Expr, d: int) -> Expr:
    """One direction's part of a weight."""
    if is_constant(value):
        return constant(value_of(value)[d])
    part = node.emit(sliced(node, value, {0: slice(d, d + 1, 1)}))
    return node.emit(reshaped(part, shape_of(value)[1:]))


def _transposed(node: Node, value: Expr) -> Expr:
    if is_constant(value):
        return constant(np.ascontiguousarray(value_of(value).T))
    return node.emit(relax.op.permute_dims(value, [1, 0]))


def _blocked(node: Node, value: Expr, hidden: int) -> Expr:
    if is_constant(value):
        return constant(blocked(value_of(value), hidden))
    width = block_width(hidden)
    rows = node.emit(reshaped(value, [shape_of(value)[0] // width, width, hidden]))
    return node.emit(relax.op.permute_dims(rows, [0, 2, 1]))


def _biases(node: Node, d: int, sizes: _Sizes, *, split_reset: bool) -> tuple[Expr, Expr]:
    """The sum of both biases, and the recurrent bias that a GRU's reset gate multiplies."""
    n, h = GATES[node.op_type], sizes.hidden
    row = _row(node, node.input(B), d)
    if is_constant(row):
        both = value_of(row).reshape(2, n * h).copy()
        reset = both[1, 2 * h :].copy() if split_reset else np.zeros(h, "float32")
        if split_reset:
            both[1, 2 * h :] = 0
        return constant(both.sum(axis=0, dtype="float32")), constant(reset)
    if split_reset:
        reset = node.emit(sliced(node, row, {0: slice(5 * h, 6 * h, 1)}))
        mask = np.ones(2 * n * h, "float32")
        mask[5 * h :] = 0
        row = node.emit(relax.op.multiply(row, constant(mask)))
    both = node.emit(reshaped(row, [2, n * h]))
    total = node.emit(relax.op.sum(both, axis=[0]))
    return total, reset if split_reset else constant(np.zeros(h, "float32"))


def _state(node: Node, position: int, d: int, sizes: _Sizes, batch_first: bool) -> Expr:
    shape = [sizes.batch, sizes.hidden]
    if not node.has(position):
        if isinstance(sizes.batch, int):
            return constant(np.zeros(shape, "float32"))
        return node.emit(relax.op.full(relax.ShapeExpr(shape), constant(0.0, "float32"), "float32"))
    value = node.input(position)
    if batch_first:
        value = node.emit(relax.op.permute_dims(value, [1, 0, 2]))
    value = with_sizes(node, value, [sizes.directions, *shape])
    if is_static(value):
        return _row(node, value, d)
    row = node.builder.emit_te(dynamic.strided, value, [d, 0, 0], [1, 1, 1], [1, *shape])
    return viewed(node, row, shape)
