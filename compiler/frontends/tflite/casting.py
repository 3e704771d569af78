"""From one element type or grid to another."""

from __future__ import annotations

import numpy as np
from onnx import TensorProto, helper

from edgec.compiler.frontends.tflite.elementwise import operands
from edgec.compiler.frontends.tflite.flat import Operator
from edgec.compiler.frontends.tflite.graph import Refused, Writer, is_quantised
from edgec.compiler.frontends.tflite.registry import converts


@converts("CAST", inputs=1, outputs=1)
def _cast(g: Writer, op: Operator) -> None:
    target, source = g.tensor(op.outputs[0]), op.inputs[0]
    if target.dtype == "complex64":
        x = g.op("Cast", g.integers(source), to=TensorProto.FLOAT)
        g.complex[op.outputs[0]] = (x, g.op("Mul", x, np.array(0, np.float32)))
        return
    x = g.complex[source][0] if source in g.complex else g.integers(source)
    y = g.op("Cast", x, to=helper.np_dtype_to_tensor_dtype(np.dtype(target.dtype)))
    if is_quantised(target):
        g.put_integers(op.outputs[0], y)
    else:
        g.put(op.outputs[0], y)


@converts("QUANTIZE", inputs=1, outputs=1)
def _quantize(g: Writer, op: Operator) -> None:
    if not is_quantised(g.tensor(op.outputs[0])):
        raise Refused("its output has no grid")
    (x,), nchw = operands(g, op, 1)
    g.put(op.outputs[0], x, nchw=nchw)


@converts("DEQUANTIZE", inputs=1, outputs=1)
def _dequantize(g: Writer, op: Operator) -> None:
    source = g.tensor(op.inputs[0])
    if source.data is not None:  # weights stored as float16 or int8
        g.put_constant(op.outputs[0], g.real(op.inputs[0]))
        return
    (x,), nchw = operands(g, op, 1)
    if source.dtype == "float16":
        x = g.op("Cast", x, to=TensorProto.FLOAT)
    g.put(op.outputs[0], x, nchw=nchw)


@converts("FAKE_QUANT", inputs=1, outputs=1)
def _fake_quant(g: Writer, op: Operator) -> None:
    """Rounds to a grid of `num_bits` between two limits, moved so that zero is on it."""
    (x,), nchw = operands(g, op, 1)
    low, high = float(op.options.min), float(op.options.max)
    first, last = int(bool(op.options.narrowRange)), (1 << int(op.options.numBits)) - 1
    if not low < high or last <= first:
        raise Refused(f"its range is {low:g} to {high:g} in {op.options.numBits} bits")
    scale = np.float32((high - low) / (last - first))
    zero = float(np.clip(first - low / scale, first, last))
    zero = float(np.floor(zero + 0.5))
    begin, end = (np.float32((edge - zero) * scale) for edge in (first, last))
    clipped = g.op("Clip", x, np.array(begin), np.array(end))
    steps = g.op("Mul", g.op("Sub", clipped, np.array(begin)), np.array(np.float32(1) / scale))
    steps = g.op("Floor", g.op("Add", steps, np.array(0.5, np.float32)))
    g.put(op.outputs[0], g.op("Add", g.op("Mul", steps, np.array(scale)), np.array(begin)), nchw=nchw)


@converts("BITCAST", inputs=1, outputs=1)
def _bitcast(g: Writer, op: Operator) -> None:
    """The same bytes as another type; types of another size change the last axis."""
    source, target = g.tensor(op.inputs[0]), g.tensor(op.outputs[0])
    if np.dtype(source.dtype).itemsize != np.dtype(target.dtype).itemsize:
        raise Refused(f"it makes {target.dtype} of {source.dtype}, a type of another size")
    to = helper.np_dtype_to_tensor_dtype(np.dtype(target.dtype))
    g.put_raw(op.outputs[0], g.op("BitCast", g.integers(op.inputs[0]), to=to))
