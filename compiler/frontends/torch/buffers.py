"""Buffers that an exported program changes: its state, as inputs and outputs of the ONNX model."""

from __future__ import annotations

from typing import Any

import numpy as np

from edgec.compiler.frontends.source import State

MARK = "next"


def carry_buffers(exported: Any) -> list[State]:  # noqa: ANN401 - an ONNXProgram
    """Make inputs and outputs of the buffers that a program changes; the exporter would leave them constant.

    Args:
        exported: an `ONNXProgram` that was not optimised, which may have removed the new values; it is changed.

    Returns:
        the states with the values that the program stores. A buffer that nothing depends on is none.
    """
    import onnx_ir as ir

    graph = exported.model.graph
    made = {value.name: value for node in graph for value in node.outputs}
    values = {value.name: value for value in graph.inputs} | made
    states = []
    for name, target in exported.exported_program.graph_signature.buffers_to_mutate.items():
        buffer, following = graph.initializers.get(target), values.get(name)
        if buffer is None or following is None or buffer.const_value is None:
            continue
        initial = np.array(buffer.const_value.numpy())
        graph.initializers.pop(target)
        buffer.const_value = None
        graph.inputs.append(buffer)
        # a node of its own: the value may be an input or an output of the program as well
        node = ir.node("Identity", [following], name=f"{target}/{MARK}")
        (result,) = node.outputs
        result.name, result.shape, result.type = f"{target}.{MARK}", buffer.shape, buffer.type
        graph.append(node)
        graph.outputs.append(result)
        states.append(State(target, result.name, initial, "variable"))
    return states
