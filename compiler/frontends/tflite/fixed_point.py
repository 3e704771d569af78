"""LSTMs with int8 weights and activations and 16-bit cells, in LiteRT's fixed point: every bit is LiteRT's."""

from __future__ import annotations

import numpy as np

from edgec.compiler.frontends.onnx.fixed_point_lstm import GATE_BITS, Factors, FixedPointLstm, body
from edgec.compiler.frontends.tflite.flat import Operator, Quantisation
from edgec.compiler.frontends.tflite.graph import Array, Writer
from edgec.compiler.frontends.tflite.registry import TANH
from edgec.compiler.kernels.fixed_point import MOST_BITS

FIRST_WEIGHTS, FIRST_RECURRENT, FIRST_BIAS, HIDDEN_STATE, CELL_STATE = 1, 5, 12, 18, 19
PEEPHOLES, PROJECTION, NORMS = (9, 10, 11), (16, 17), (20, 21, 22, 23)
GATES, HIDDEN = 4, 4
FRACTION = 15  # bits of a number of 16


def layer_of(g: Writer, op: Operator) -> FixedPointLstm | None:
    """A sequence's layer in fixed point; None for one in real numbers, or with parts that this form lacks.

    These are peepholes, projections and layer normalisation, which are computed on dequantised values.
    """
    if not _is_fixed_point(g, op) or int(op.options.fusedActivationFunction) != TANH:
        return None
    x, h, cell, y = (
        _grid(g, index)
        for index in (op.inputs[0], op.inputs[HIDDEN_STATE], op.inputs[CELL_STATE], op.outputs[0])
    )
    hidden = _grid(g, op.intermediates[HIDDEN]) if len(op.intermediates) > HIDDEN else y
    if x is None or h is None or cell is None or y is None or hidden is None:
        return None
    bits = FRACTION + np.log2(cell.scale[0])
    if (
        bits != round(bits)
        or not 0 <= bits <= MOST_BITS
        or len({int(one.zero_point[0]) for one in (y, h, hidden)}) > 1
    ):
        return None
    unit = np.float32(2.0 ** (GATE_BITS - FRACTION))
    parts = []
    for first, source in ((FIRST_WEIGHTS, x), (FIRST_RECURRENT, h)):
        gates = [_weights(g, op.inputs[first + k]) for k in range(GATES)]
        if any(gate is None for gate in gates[1:]):
            return None
        weights, scales = zip(*(gate or gates[1] for gate in gates), strict=True)
        factors = Factors.of(
            np.repeat([scale * source.scale[0] / unit for scale in scales], weights[0].shape[0])
        )
        whole = np.concatenate(weights)
        parts.append((whole, -int(source.zero_point[0]) * whole.sum(axis=1, dtype=np.int64), factors))
    (w, input_bias, from_input), (r, state_bias, from_state) = parts
    cells = r.shape[1]
    for k in range(GATES):
        if _given(op, FIRST_BIAS + k):
            input_bias[k * cells : (k + 1) * cells] += g.data(op.inputs[FIRST_BIAS + k]).astype(np.int64)
    out = Factors.of(np.full(cells, np.float32(2.0**-FRACTION / float(hidden.scale[0]) * 2.0**-FRACTION)))
    if from_input is None or from_state is None or out is None or r.shape[0] != GATES * cells:
        return None
    limit = np.float32(op.options.cellClip or 0.0) / np.float32(cell.scale[0])
    layer = FixedPointLstm(
        np.ascontiguousarray(w.T), np.ascontiguousarray(r.T), input_bias, state_bias, from_input, from_state, out,
        int(hidden.zero_point[0]), int(bits), int(min(float(limit), 32767.0)) or 32768, not _given(op, FIRST_WEIGHTS),
    )  # fmt: skip
    return layer if layer.fits else None


def _given(op: Operator, position: int) -> bool:
    return position < len(op.inputs) and op.inputs[position] >= 0


def _is_fixed_point(g: Writer, op: Operator) -> bool:
    types = [
        g.tensor(index).dtype
        for index in (op.inputs[0], op.inputs[HIDDEN_STATE], op.inputs[CELL_STATE], op.outputs[0])
    ]
    more = any(_given(op, position) for position in (*PEEPHOLES, *PROJECTION, *NORMS))
    return types == ["int8", "int8", "int16", "int8"] and not more


def _grid(g: Writer, index: int) -> Quantisation | None:
    found = g.tensor(index).quantisation
    return found if found is not None and found.per_tensor and found.scale[0] > 0 else None


def _weights(g: Writer, index: int) -> tuple[Array, np.float32] | None:
    """Constant int8 weights and their scale."""
    if index < 0:
        return None
    tensor, found = g.tensor(index), _grid(g, index)
    if tensor.data is None or tensor.dtype != "int8" or found is None or found.zero_point.any():
        return None
    return tensor.data, np.float32(found.scale[0])


def scanned(g: Writer, x: str, batch: int, layer: FixedPointLstm) -> str:
    """The outputs `[steps, batch, cells]`, stored, for stored inputs `[steps, batch, inputs]`."""
    h = g.constant(np.full((batch, layer.cells), layer.zero, np.int8))
    c = g.constant(np.zeros((batch, layer.cells), np.int64))
    made = g.op("Scan", h, c, x, outputs=3, body=body(layer), num_scan_inputs=1)
    return str(made[2])
