"""Fourier transforms and complex numbers."""

from __future__ import annotations

import numpy as np

from edgec.compiler.frontends.tflite.flat import Operator
from edgec.compiler.frontends.tflite.graph import Refused, Writer
from edgec.compiler.frontends.tflite.registry import converts


@converts("RFFT2D")
def _rfft2d(g: Writer, op: Operator) -> None:
    rows, length = g.ints(op.inputs[1])
    tensor = g.tensor(op.inputs[0])
    if rows != 1 or len(tensor.shape) < 2 or tensor.shape[-2] != 1:
        raise Refused("it transforms along two axes")
    if tensor.shape[-1] != length:
        raise Refused(f"it transforms {length} of {tensor.shape[-1]} samples")
    angles = 2 * np.pi / length * np.outer(np.arange(length), np.arange(length // 2 + 1))
    x = g.get(op.inputs[0])
    parts = (np.cos(angles), -np.sin(angles))
    re, im = (str(g.op("MatMul", x, part.astype(np.float32))) for part in parts)
    g.complex[op.outputs[0]] = (re, im)


@converts("COMPLEX_ABS")
def _complex_abs(g: Writer, op: Operator) -> None:
    re, im = g.complex[op.inputs[0]]
    g.put(op.outputs[0], g.op("Sqrt", g.op("Add", g.op("Mul", re, re), g.op("Mul", im, im))))
