"""Softmax and normalisation by the length of a vector."""

from __future__ import annotations

import numpy as np

from edgec.compiler.frontends.tflite.flat import Operator
from edgec.compiler.frontends.tflite.graph import Writer
from edgec.compiler.frontends.tflite.registry import activated, converts


@converts("L2_NORMALIZATION")
def _l2_normalization(g: Writer, op: Operator) -> None:
    x = g.get(op.inputs[0])
    size = g.op("ReduceSum", g.op("Mul", x, x), np.array([-1], np.int64), keepdims=1)
    size = g.op("Sqrt", g.op("Max", size, np.array(1e-12, np.float32)))
    g.put(
        op.outputs[0], activated(g, g.op("Div", x, size), op.options.fusedActivationFunction, op.outputs[0])
    )


@converts("SOFTMAX", "LOG_SOFTMAX")
def _softmax(g: Writer, op: Operator) -> None:
    x = g.get(op.inputs[0])
    beta = float(getattr(op.options, "beta", 1.0)) if op.kind == "SOFTMAX" else 1.0
    x = g.op("Mul", x, np.array(beta, np.float32)) if beta != 1.0 else x
    g.put(op.outputs[0], g.op("Softmax" if op.kind == "SOFTMAX" else "LogSoftmax", x, axis=-1))
