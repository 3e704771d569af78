"""DynamicQuantizeLSTM of com.microsoft: integer weights, and activations that are rounded to bytes when the model runs.

The inputs of all steps are rounded on the grid of their range, then the state at each step.
"""

from __future__ import annotations

from functools import partial

import numpy as np
from tvm import relax

from edgec.compiler.frontends.relax.builder import Array, Expr, constant
from edgec.compiler.frontends.relax.converters.integer import integer_product, to_bytes
from edgec.compiler.frontends.relax.converters.recurrent import (
    LENGTHS,
    Products,
    R,
    W,
    X,
    all_full,
    recurrent_layer,
)
from edgec.compiler.frontends.relax.converters.registry import (
    MICROSOFT,
    CannotConvert,
    Node,
    converts,
    converts_dynamic,
)
from edgec.compiler.frontends.relax.dims import dims_of
from edgec.compiler.kernels.quantised_recurrent import QuantisedLstmKernel
from edgec.compiler.kernels.recurrent import blocked

W_SCALE, W_ZERO, R_SCALE, R_ZERO = range(8, 12)
GATES = 4


@converts("DynamicQuantizeLSTM", domain=MICROSOFT)
@converts_dynamic("DynamicQuantizeLSTM", domain=MICROSOFT)
def _dynamic_lstm(node: Node) -> list[Expr]:
    w, r = _given(node, W), _given(node, R)
    w_zero, r_zero = _of_directions(node, W_ZERO), _of_directions(node, R_ZERO)
    w_scale, r_scale = (_of_directions(node, k).astype("float32") for k in (W_SCALE, R_SCALE))
    directions, hidden, columns = r.shape
    centred = r.astype(np.int32) - r_zero.astype(np.int32)[:, None]
    stored = "int8" if centred.min() >= -128 and centred.max() <= 127 else "int16"
    layer = Node("LSTM", "", 14, node.builder, node.inputs[:8], node.attrs, node.outputs, node.scope)
    codes: list[Expr] = []

    def inputs(x: Expr, d: int) -> Expr:
        if not codes:  # both directions read the same
            codes.extend(node.emit(one) for one in to_bytes(node, x))
        given = [codes[0], constant(w[d]), codes[2], constant(w_zero[d])]
        product = Node("MatMulInteger", "", 10, node.builder, given, {}, node.outputs, node.scope)
        sums = node.emit(relax.op.astype(node.emit(integer_product(product, (0, 1), (2, 3))), "float32"))
        return relax.op.multiply(sums, node.emit(relax.op.multiply(codes[1], constant(w_scale[d]))))

    def recurrence(d: int) -> list[Expr]:
        scales = np.broadcast_to(r_scale[d], (columns,))
        blocks = blocked(np.ascontiguousarray(centred[d].T.astype(stored)), hidden)
        return [constant(blocks), constant(np.ascontiguousarray(scales))]

    products = Products(inputs, recurrence, partial(QuantisedLstmKernel, stored=stored))
    return recurrent_layer(_within_lengths(layer), directions, w.shape[1], hidden, products)


def _given(node: Node, position: int) -> Array:
    weights = node.array(position)
    if weights is None or weights.ndim != 3 or weights.shape[2] != GATES * node.shape(R)[1]:
        raise CannotConvert("its weights do not have the sizes [directions, inputs, 4 * hidden]")
    return weights


def _of_directions(node: Node, position: int) -> Array:
    """Scales or zero points as `[directions, 1]` or `[directions, columns]`."""
    value = node.array(position)
    if value is None:
        raise CannotConvert(f"its input {position} is missing")
    return value.reshape(node.shape(R)[0], -1)


def _within_lengths(layer: Node) -> Node:
    """Inputs past the longest sequence do not count in the range: they become 0, which every range has."""
    if not layer.has(LENGTHS) or all_full(layer, dims_of(layer.input(X))[0]):
        return layer
    steps = dims_of(layer.input(X))[0]
    if not isinstance(steps, int):
        raise CannotConvert("its sequences have lengths of their own, and as many steps as the run brings")
    longest = layer.emit(relax.op.max(layer.emit(relax.op.astype(layer.input(LENGTHS), "int64"))))
    inside = layer.emit(
        relax.op.less(constant(np.arange(steps, dtype="int64").reshape(steps, 1, 1)), longest)
    )
    x = layer.emit(relax.op.where(inside, layer.input(X), constant(0.0, "float32")))
    return Node(
        layer.op_type, "", layer.opset, layer.builder, [x, *layer.inputs[1:]], layer.attrs, layer.outputs
    )
