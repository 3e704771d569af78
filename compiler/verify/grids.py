"""The grids on which a quantised model's outputs lie: one step is what a value on a rounding edge may differ by."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, numpy_helper

# Operators behind which values lie on the same grid.
MOVING = frozenset(
    {"Flatten", "Gather", "Identity", "Reshape", "Slice", "Squeeze", "Transpose", "Unsqueeze", "DepthToSpace"}
)


def steps_of(model: ModelProto) -> dict[str, float]:
    """The step of each output that lies on one grid, by name.

    An output of real numbers lies on the grid of the DequantizeLinear that makes it; one of 8-bit integers has steps
    of 1. Others have none.
    """
    makers = {name: node for node in model.graph.node for name in node.output}
    scales = {
        tensor.name: numpy_helper.to_array(tensor)
        for tensor in model.graph.initializer
        if tensor.data_type == TensorProto.FLOAT and int(np.prod(tensor.dims)) == 1
    }
    found = {}
    for output in model.graph.output:
        step = _step(output.name, makers, scales)
        if step:
            found[output.name] = step
    return found


def _step(name: str, makers: Mapping[str, NodeProto], scales: Mapping[str, np.ndarray]) -> float:
    node = makers.get(name)
    while node is not None and node.op_type in MOVING:
        node = makers.get(node.input[0])
    if node is None:
        return 0.0
    if node.op_type == "DequantizeLinear" and node.input[1] in scales:
        return float(scales[node.input[1]].reshape(()))
    return 1.0 if node.op_type == "QuantizeLinear" or node.op_type.startswith("QLinear") else 0.0
