"""LSTM, RNN and SVDF layers, over sequences and of single steps.

The memory of a single step is a state of the model. A sequence begins at zero: it is one run's, as Keras means it,
though LiteRT goes on where the run before ended unless `reset_all_variables` is called.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from edgec.compiler.frontends.tflite import fixed_point
from edgec.compiler.frontends.tflite.cells import (
    GATES,
    Lstm,
    Rnn,
    Rounding,
    activation,
    lstm,
    lstm_step,
    rnn,
    rnn_step,
    rounded_rows,
)
from edgec.compiler.frontends.tflite.flat import Operator
from edgec.compiler.frontends.tflite.graph import Array, Refused, Writer, is_quantised
from edgec.compiler.frontends.tflite.registry import converts
from edgec.compiler.frontends.tflite.variables import carried, carry

BASIC = 1  # the kernel type of LSTM with one matrix of all weights
NORMS, STATES = range(20, 24), 18


def _given(op: Operator, position: int) -> int:
    return op.inputs[position] if position < len(op.inputs) else -1


def _real(g: Writer, op: Operator, position: int) -> Array | None:
    index = _given(op, position)
    return None if index < 0 else g.real(index)


def _rounding(g: Writer, op: Operator, weights: int, options: Any) -> Rounding:  # noqa: ANN401 - of the schema
    hybrid = g.tensor(op.inputs[0]).dtype == "float32" and g.tensor(weights).dtype in ("int8", "uint8")
    if not hybrid:
        return ""
    return "asymmetric" if getattr(options, "asymmetricQuantizeInputs", False) else "symmetric"


def _layer(g: Writer, op: Operator, first: int, *, norms: bool) -> Lstm:
    """The weights of a direction, whose inputs begin at a position of the operator's."""
    options = op.options
    w, r, b = ({gate: _real(g, op, first + base + k) for k, gate in enumerate(GATES)} for base in (0, 4, 11))
    peepholes = dict(zip(("i", "f", "o"), (_real(g, op, first + 8 + k) for k in range(3)), strict=True))
    coefficients = {gate: _real(g, op, NORMS[k]) if norms else None for k, gate in enumerate(GATES)}
    if w["i"] is None:  # input and forget gate are coupled: i = 1 - f = sigmoid of the negative sum
        for part in (w, r, b, peepholes):
            value = part["f"]
            part["i"] = None if value is None else -value
        coefficients["i"] = coefficients["f"]
    cells = _needed(w, "f").shape[0]
    projection = _real(g, op, first + 15)
    return Lstm(
        w={gate: _needed(w, gate) for gate in GATES},
        r={gate: _needed(r, gate) for gate in GATES},
        b={gate: np.zeros(cells, np.float32) if b[gate] is None else _needed(b, gate) for gate in GATES},
        peepholes={}
        if peepholes["f"] is None
        else {gate: _needed(peepholes, gate) for gate in ("i", "f", "o")},
        norms={} if coefficients["f"] is None else {gate: _needed(coefficients, gate) for gate in GATES},
        projection=projection,
        projection_bias=_real(g, op, first + 16),
        cell_clip=float(options.cellClip or 0.0),
        projection_clip=float(options.projClip or 0.0),
        activation=int(options.fusedActivationFunction),
        rounding=_rounding(g, op, _given(op, first + 1), options),
    )


def _needed(parts: dict[str, Array | None], gate: str) -> Array:
    value = parts[gate]
    if value is None:
        raise Refused("it lacks weights of a gate")
    return value


def _time_first(g: Writer, index: int, *, time_major: bool) -> tuple[str, int, int]:
    """A sequence as `[steps, batch, inputs]`, and the first two sizes."""
    shape = g.shape(index, 3)
    x = g.get(index)
    if time_major:
        return x, shape[0], shape[1]
    if shape[0] == 1:
        turned = np.array([shape[1], 1, shape[2]], np.int64)
        return _reshaped(g, index, turned), shape[1], 1
    return str(g.op("Transpose", x, perm=[1, 0, 2])), shape[1], shape[0]


def _stored_time_first(g: Writer, index: int, *, time_major: bool) -> tuple[str, int]:
    """The integers of a sequence as `[steps, batch, inputs]`, and the batch."""
    shape = g.shape(index, 3)
    stored = g.integers(index)
    return (stored, shape[1]) if time_major else (str(g.op("Transpose", stored, perm=[1, 0, 2])), shape[0])


def _reshaped(g: Writer, index: int, shape: Array) -> str:
    """The tensor in another shape; for quantised ones the integers are reshaped.

    ONNX Runtime 1.31 moves a DequantizeLinear behind a Reshape and then fails on its own QuantizeLinear.
    """
    if is_quantised(g.tensor(index)):
        return g.dequantise(g.op("Reshape", g.integers(index), shape), index)
    return str(g.op("Reshape", g.get(index), shape))


def _back(g: Writer, y: str, *, time_major: bool) -> str:
    return y if time_major else str(g.op("Transpose", y, perm=[1, 0, 2]))


@converts("UNIDIRECTIONAL_SEQUENCE_LSTM", inputs=(18, 24), outputs=1, given=1)
def _sequence_lstm(g: Writer, op: Operator) -> None:
    major = bool(op.options.timeMajor)
    if getattr(op.options, "diagonalRecurrentTensors", False):
        raise Refused("its recurrent weights are diagonals")
    integer = fixed_point.layer_of(g, op)
    if integer is not None:
        stored, batch = _stored_time_first(g, op.inputs[0], time_major=major)
        y = fixed_point.scanned(g, stored, batch, integer)
        g.put_integers(op.outputs[0], _back(g, y, time_major=major))
        return
    layer = _layer(g, op, 1, norms=True)
    x, steps, batch = _time_first(g, op.inputs[0], time_major=major)
    g.put(op.outputs[0], _back(g, lstm(g, x, steps, batch, layer), time_major=major))


@converts("BIDIRECTIONAL_SEQUENCE_LSTM", inputs=(39, 48), outputs=(1, 2), given=1)
def _bidirectional_lstm(g: Writer, op: Operator) -> None:
    major = bool(op.options.timeMajor)
    layers = [_layer(g, op, first, norms=False) for first in (1, 18)]
    x, steps, batch = _time_first(g, op.inputs[0], time_major=major)
    sources = [x, x]
    if _given(op, 39) >= 0:
        aux = _time_first(g, op.inputs[39], time_major=major)[0]
        if _given(op, 41) < 0:  # without weights of its own, it is the input of the second direction
            sources[1] = aux
        else:
            raise Refused("it has a second input with weights of its own")
    made = [
        lstm(g, source, steps, batch, layer, backwards=backwards)
        for source, layer, backwards in zip(sources, layers, (False, True), strict=True)
    ]
    _join(g, op, made, time_major=major)


def _join(g: Writer, op: Operator, made: list[str], *, time_major: bool) -> None:
    made = [_back(g, y, time_major=time_major) for y in made]
    if op.options.mergeOutputs:
        g.put(op.outputs[0], g.op("Concat", *made, axis=2))
    else:
        for index, y in zip(op.outputs, made, strict=True):
            g.put(index, y)


@converts("LSTM", inputs=(5, 24), outputs=(1, 4), given=1)
def _lstm_step(g: Writer, op: Operator) -> None:
    if int(op.options.kernelType) == BASIC:
        _basic_lstm(g, op)
        return
    batch, width = g.shape(op.inputs[0], 2)
    x = g.op("Reshape", g.get(op.inputs[0]), np.array([1, batch, width], np.int64))
    h, cell = (_given(op, STATES + k) for k in range(2))
    before = carried(g, h), carried(g, cell)
    y, after = lstm_step(g, x, batch, _layer(g, op, 1, norms=True), before)
    for index, value in zip((h, cell), after, strict=True):
        carry(g, index, value)
    g.put(op.outputs[0], g.op("Squeeze", y, np.array([0], np.int64)))


def _basic_lstm(g: Writer, op: Operator) -> None:
    """A step with one matrix for input and previous output; both states are inputs and outputs."""
    if len(op.inputs) < 5 or len(op.outputs) < 2:
        raise Refused("it lacks its states")
    x, h, cell = (g.get(op.inputs[k]) for k in (0, 1, 4))
    weights, biases = g.real(op.inputs[2]), g.real(op.inputs[3])
    cells = weights.shape[0] // 4
    gates = g.op("Gemm", g.op("Concat", x, h, axis=1), weights, biases, transB=1)
    opened, new, kept, out = g.op("Split", gates, np.full(4, cells, np.int64), outputs=4, axis=1)
    fresh = g.op("Mul", g.op("Sigmoid", opened), g.op("Tanh", new))
    cell = g.op("Add", g.op("Mul", g.op("Sigmoid", kept), cell), fresh)
    g.put(op.outputs[0], g.op("Mul", g.op("Sigmoid", out), g.op("Tanh", cell)))
    g.put(op.outputs[1], cell)


def _simple(g: Writer, op: Operator, first: int) -> Rnn:
    w, r, b = (g.real(op.inputs[first + k]) for k in range(3))
    rounding = _rounding(g, op, op.inputs[first], op.options)
    return Rnn(w, r, b, int(op.options.fusedActivationFunction), rounding)


@converts("RNN", inputs=5, outputs=1)
def _rnn_step(g: Writer, op: Operator) -> None:
    batch, width = g.shape(op.inputs[0], 2)
    x = g.op("Reshape", g.get(op.inputs[0]), np.array([1, batch, width], np.int64))
    y, after = rnn_step(g, x, batch, _simple(g, op, 1), carried(g, op.inputs[4]))
    carry(g, op.inputs[4], after)
    g.put(op.outputs[0], g.op("Squeeze", y, np.array([0], np.int64)))


@converts("UNIDIRECTIONAL_SEQUENCE_RNN", inputs=5, outputs=1)
def _sequence_rnn(g: Writer, op: Operator) -> None:
    major = bool(op.options.timeMajor)
    x, steps, batch = _time_first(g, op.inputs[0], time_major=major)
    g.put(op.outputs[0], _back(g, rnn(g, x, steps, batch, _simple(g, op, 1)), time_major=major))


@converts("BIDIRECTIONAL_SEQUENCE_RNN", inputs=(9, 12), outputs=(1, 2))
def _bidirectional_rnn(g: Writer, op: Operator) -> None:
    major = bool(op.options.timeMajor)
    if any(_given(op, position) >= 0 for position in range(9, 12)):
        raise Refused("it has a second input")
    x, steps, batch = _time_first(g, op.inputs[0], time_major=major)
    made = [
        rnn(g, x, steps, batch, _simple(g, op, first), backwards=backwards)
        for first, backwards in ((1, False), (5, True))
    ]
    _join(g, op, made, time_major=major)


@converts("SVDF", inputs=5, outputs=1, given=3)
def _svdf(g: Writer, op: Operator) -> None:
    """A step of filters over time, whose memory `[batch, filters · entries]` has the newest entry last."""
    batch = g.shape(op.inputs[0], 2)[0]
    rank = int(op.options.rank)
    feature, over_time = g.real(op.inputs[1]), g.real(op.inputs[2])
    x = rounded_rows(g, g.get(op.inputs[0]), _rounding(g, op, op.inputs[1], op.options))
    filters, entries = over_time.shape
    newest = g.op("Reshape", g.op("MatMul", x, feature.T.copy()), np.array([batch, filters, 1], np.int64))
    memory = g.op("Reshape", carried(g, op.inputs[4]), np.array([batch, filters, entries], np.int64))
    kept = g.op("Slice", memory, *(np.array([n], np.int64) for n in (1, entries, 2)))
    memory = g.op("Concat", kept, newest, axis=2)
    carry(g, op.inputs[4], g.op("Reshape", memory, np.array([batch, filters * entries], np.int64)))
    value = g.op("ReduceSum", g.op("Mul", memory, over_time), np.array([2], np.int64), keepdims=0)
    value = g.op("Reshape", value, np.array([batch, -1, rank], np.int64))
    value = g.op("ReduceSum", value, np.array([2], np.int64), keepdims=0)
    bias = _real(g, op, 3)
    value = value if bias is None else g.op("Add", value, bias)
    g.put(op.outputs[0], activation(g, value, int(op.options.fusedActivationFunction)))
