"""Softmax and normalisation by the length of a vector."""

from __future__ import annotations

import numpy as np

from edgec.compiler.frontends.tflite.flat import Operator
from edgec.compiler.frontends.tflite.graph import Writer
from edgec.compiler.frontends.tflite.registry import activated, converts


@converts("L2_NORMALIZATION", inputs=1, outputs=1)
def _l2_normalization(g: Writer, op: Operator) -> None:
    x = g.get(op.inputs[0])
    size = g.op("ReduceSum", g.op("Mul", x, x), np.array([-1], np.int64), keepdims=1)
    size = g.op("Sqrt", g.op("Max", size, np.array(1e-12, np.float32)))
    g.put(
        op.outputs[0], activated(g, g.op("Div", x, size), op.options.fusedActivationFunction, op.outputs[0])
    )


@converts("SOFTMAX", "LOG_SOFTMAX", inputs=1, outputs=1)
def _softmax(g: Writer, op: Operator) -> None:
    x = g.get(op.inputs[0])
    beta = float(getattr(op.options, "beta", 1.0)) if op.kind == "SOFTMAX" else 1.0
    x = g.op("Mul", x, np.array(beta, np.float32)) if beta != 1.0 else x
    g.put(op.outputs[0], g.op("Softmax" if op.kind == "SOFTMAX" else "LogSoftmax", x, axis=-1))


@converts("LOCAL_RESPONSE_NORMALIZATION", inputs=1, outputs=1)
def _local_response_normalization(g: Writer, op: Operator) -> None:
    """Each value by the squares of its neighbours along the channels."""
    options, channels = op.options, g.shape(op.inputs[0], 4)[3]
    reach = min(int(options.radius), channels)
    size = 2 * reach + 1
    y = g.op(
        "LRN",
        g.get_nchw(op.inputs[0]),
        size=size,
        alpha=float(options.alpha) * size,
        beta=float(options.beta),
        bias=float(options.bias),
    )
    g.put(op.outputs[0], y, nchw=True)
