"""LSTM layers, as ONNX's LSTM or unrolled."""

from __future__ import annotations

import numpy as np

from edgec.compiler.frontends.tflite.flat import Operator
from edgec.compiler.frontends.tflite.graph import Array, Refused, Writer, is_quantised
from edgec.compiler.frontends.tflite.registry import converts

MAX_UNROLLED = 256  # steps of a recurrent layer that is unrolled


@converts("UNIDIRECTIONAL_SEQUENCE_LSTM")
def _lstm(g: Writer, op: Operator) -> None:
    inputs = op.inputs
    if any(i < len(inputs) and inputs[i] >= 0 for i in (16, 17, 20, 21, 22, 23)):
        raise Refused("it has a projection or layer normalisation")
    if inputs[1] < 0:
        raise Refused("its input and forget gates are coupled (CIFG)")
    # TensorFlow Lite: input, forget, cell, output; ONNX: input, output, forget, cell
    gates = (0, 3, 1, 2)
    w = np.concatenate([g.real(inputs[1 + k]) for k in gates])[None]
    r = np.concatenate([g.real(inputs[5 + k]) for k in gates])[None]
    hidden = r.shape[2]
    biases = [g.real(inputs[12 + k]) if inputs[12 + k] >= 0 else np.zeros(hidden, np.float32) for k in gates]
    b = np.concatenate([*biases, np.zeros(4 * hidden, np.float32)])[None]
    if inputs[9] >= 0:
        raise Refused("it has peepholes")
    clip = float(op.options.cellClip or 0.0)
    time = 0 if op.options.timeMajor else 1
    if clip:
        g.put(op.outputs[0], _unrolled_lstm(g, op, w[0], r[0], b[0, : 4 * hidden], clip))
        return
    x = g.get(inputs[0])
    x = x if time == 0 else g.op("Transpose", x, perm=[1, 0, 2])
    y = g.op("Squeeze", g.op("LSTM", x, w, r, b, hidden_size=hidden), np.array([1], np.int64))
    g.put(op.outputs[0], y if time == 0 else g.op("Transpose", y, perm=[1, 0, 2]))


def _unrolled_lstm(g: Writer, op: Operator, w: Array, r: Array, b: Array, clip: float) -> str:
    """An LSTM whose cells are clipped after each step, which ONNX's LSTM does not support. Gates: i, o, f, c."""
    time = 0 if op.options.timeMajor else 1
    shape = g.tensor(op.inputs[0]).shape
    if shape[time] > MAX_UNROLLED:
        raise Refused(f"it clips its cells, and has {shape[time]} steps; up to {MAX_UNROLLED} are compiled")
    hidden = r.shape[1]
    rows = _flattened(g, op.inputs[0], shape[2])
    driven = g.op("Gemm", rows, w, b, transB=1)
    driven = g.op("Reshape", driven, np.array([*shape[:2], 4 * hidden], np.int64))
    limits = [np.array(-clip, np.float32), np.array(clip, np.float32)]
    h = g.constant(np.zeros((shape[1 - time], hidden), np.float32))
    cell, steps = h, []
    for step in range(shape[time]):
        gates = g.op("Gather", driven, np.array(step, np.int64), axis=time)
        gates = g.op("Add", gates, g.op("MatMul", h, r.T.copy()))
        parts = g.op("Split", gates, np.full(4, hidden, np.int64), outputs=4, axis=1)
        opened, out, kept = (g.op("Sigmoid", part) for part in parts[:3])
        new = g.op("Mul", opened, g.op("Tanh", parts[3]))
        cell = g.op("Clip", g.op("Add", g.op("Mul", kept, cell), new), *limits)
        h = g.op("Mul", out, g.op("Tanh", cell))
        steps.append(g.op("Unsqueeze", h, np.array([time], np.int64)))
    return str(g.op("Concat", *steps, axis=time))


def _flattened(g: Writer, index: int, width: int) -> str:
    """The tensor as `[-1, width]`; for quantised ones the integers are reshaped.

    ONNX Runtime 1.31 moves a DequantizeLinear behind a Reshape and then fails on its own QuantizeLinear.
    """
    shape = np.array([-1, width], np.int64)
    if is_quantised(g.tensor(index)):
        return g.dequantise(g.op("Reshape", g.integers(index), shape), index)
    return str(g.op("Reshape", g.get(index), shape))
