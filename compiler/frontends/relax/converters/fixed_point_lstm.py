"""An LSTM in fixed point: a product of bytes for the inputs of all steps, then a kernel that walks them."""

from __future__ import annotations

import numpy as np
from tvm import relax

from edgec.compiler.frontends.onnx.fixed_point_lstm import GATE_BITS, Factors, FixedPointLstm
from edgec.compiler.frontends.relax.builder import Expr, constant
from edgec.compiler.frontends.relax.converters.registry import Node, is_constant, reshaped
from edgec.compiler.kernels import fixed_point
from edgec.compiler.kernels.fixed_point_lstm import (
    GATES,
    MOST,
    Factor,
    FixedPointKernel,
    half_table,
    in_blocks,
)


def stands_for_layer(node: Node) -> bool:
    """Whether a Scan goes over the first axis of one input, forwards, with two states."""
    scanned, states = int(node.attrs["num_scan_inputs"]), 2
    turned = [n for name in ("axes", "directions") for n in node.attrs.get(f"scan_input_{name}") or []]
    turned += [n for name in ("axes", "directions") for n in node.attrs.get(f"scan_output_{name}") or []]
    return scanned == 1 and len(node.inputs) == 1 + states and not any(turned)


def fixed_point_lstm(node: Node, layer: FixedPointLstm) -> list[Expr]:
    """The states after the last step, and the outputs `[steps, batch, cells]`."""
    steps, batch, inputs = node.shape(2)
    cells = layer.cells
    rows = node.emit(reshaped(node.input(2), [steps * batch, inputs]))
    sums = node.emit(relax.op.matmul(rows, constant(layer.w), out_dtype="int32"))
    sums = node.emit(reshaped(sums, [steps, batch, GATES * cells]))
    kernel = FixedPointKernel(
        steps, batch, cells,
        _gates(layer.from_input, cells), _gates(layer.from_state, cells), _gates(layer.out, cells)[0],
        layer.zero, layer.cell_bits, layer.clip, layer.coupled,
    )  # fmt: skip
    biases = [bias.astype(np.int32) for bias in (layer.input_bias, layer.state_bias)]
    weights = [
        constant(part) for part in (in_blocks(layer.r), *biases, half_table(fixed_point.sigmoid(), MOST))
    ]
    tanh = {bits: constant(half_table(fixed_point.tanh(bits), 0)) for bits in {GATE_BITS, layer.cell_bits}}
    weights += [tanh[bits] for bits in (GATE_BITS, layer.cell_bits)]
    states = [state if is_constant(state) else node.emit(state) for state in (node.input(0), node.input(1))]
    symbol = node.builder.get_unique_name("fixed_point_lstm")
    function = node.builder.add_func(kernel.build(symbol), symbol)
    types = [relax.TensorType((batch, cells), dtype) for dtype in ("int8", "int64")]
    types.append(relax.TensorType((steps, batch, cells), "int8"))
    called = node.emit(relax.call_tir(function, [sums, *weights, *states], types))
    return [node.emit(relax.TupleGetItem(called, place)) for place in range(len(types))]


def _gates(factors: Factors, cells: int) -> tuple[Factor, ...]:
    """One factor for each gate."""
    pairs = zip(factors.multiplier[::cells], factors.exponent[::cells], strict=True)
    return tuple((int(multiplier), int(exponent)) for multiplier, exponent in pairs)
