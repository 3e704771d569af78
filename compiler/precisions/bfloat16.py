"""Choose the layers that multiply in bfloat16: measured on sample inputs, within the user's error budget.

The source model runs in ONNX Runtime with a switch at every convolution and every product with constant weights; a
switched layer sees its operands rounded to bfloat16 and sums in float32, as the compiled kernel does. First each layer
is switched alone. Then layers are taken in the order of arithmetic gained for error caused, as many as the outputs of
the whole model, measured again, allow.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx
from onnx import TensorProto, helper

from edgec.compiler.frontends.onnx.ort_session import open_session
from edgec.compiler.frontends.source import SourceModel
from edgec.compiler.options import BF16_SHARE
from edgec.compiler.verify.inputs import Arrays

_LAYERS = ("Conv", "Gemm", "MatMul")
_PREFIX = "edgec_bf16_"


@dataclass(frozen=True)
class Layer:
    """A layer that could multiply in bfloat16."""

    node: int  # index of the source node
    weights: int  # elements of its weights


@dataclass(frozen=True)
class Choice:
    """The layers chosen, and the model's error with all of them in bfloat16 (relative to each output's largest)."""

    nodes: frozenset[int] = frozenset()
    error: float = 0.0
    alone: Mapping[int, float] = field(default_factory=dict)  # error of each layer on its own


def choose_layers(source: SourceModel, inputs: Arrays, budget: float) -> Choice:
    """The layers of `source` that can use bfloat16 within `budget` on `inputs`."""
    switched, layers = _with_switches(source)
    if not layers:
        return Choice()
    measure = _measurer(switched, layers, inputs)
    alone = {layer.node: measure([layer]) for layer in layers}
    order = sorted(layers, key=lambda layer: (alone[layer.node] / layer.weights, layer.node))
    low, high, error = 0, len(order), 0.0
    while low < high:  # the longest beginning of the order that stays within the budget
        middle = (low + high + 1) // 2
        found = measure(order[:middle])
        if found <= BF16_SHARE * budget:
            low, error = middle, found
        else:
            high = middle - 1
    return Choice(frozenset(layer.node for layer in order[:low]), error, alone)


def _with_switches(source: SourceModel) -> tuple[onnx.ModelProto, list[Layer]]:
    """The model with a boolean input at each layer that rounds its operands."""
    model = onnx.ModelProto()
    model.CopyFrom(source.model)
    graph = model.graph
    constants = {tensor.name: tensor for tensor in graph.initializer}
    nodes: list[onnx.NodeProto] = []
    layers: list[Layer] = []
    for node in graph.node:
        origin = source.origins.get(node.output[0]) if node.output else None
        weight = constants.get(node.input[1]) if node.op_type in _LAYERS and len(node.input) > 1 else None
        usable = origin is not None and weight is not None and weight.data_type == TensorProto.FLOAT
        if origin is None or weight is None or not usable or any(lay.node == origin for lay in layers):
            nodes.append(node)
            continue
        switch = f"{_PREFIX}{origin}"
        layers.append(Layer(origin, math.prod(weight.dims)))
        graph.input.append(helper.make_tensor_value_info(switch, TensorProto.BOOL, []))
        for position in (0, 1):
            nodes += _rounded(node, position, switch)
        nodes.append(node)
    del graph.node[:]
    graph.node.extend(nodes)
    return model, layers


def _rounded(node: onnx.NodeProto, position: int, switch: str) -> list[onnx.NodeProto]:
    """Round an operand of `node` where the switch is on."""
    name, made = node.input[position], f"{switch}_{position}"
    node.input[position] = made
    return [
        helper.make_node("Cast", [name], [f"{made}_bf16"], to=TensorProto.BFLOAT16),
        helper.make_node("Cast", [f"{made}_bf16"], [f"{made}_back"], to=TensorProto.FLOAT),
        helper.make_node("Where", [switch, f"{made}_back", name], [made]),
    ]


def _measurer(
    model: onnx.ModelProto, layers: Sequence[Layer], inputs: Arrays
) -> Callable[[Sequence[Layer]], float]:
    session = open_session(model.SerializeToString(), threads=0)

    def run(chosen: Sequence[Layer]) -> list[np.ndarray]:
        on = {layer.node for layer in chosen}
        switches = {f"{_PREFIX}{layer.node}": np.array(layer.node in on) for layer in layers}
        return list(session.run(None, {**inputs, **switches}))

    exact = run([])

    def measure(chosen: Sequence[Layer]) -> float:
        return max((_error(a, b) for a, b in zip(exact, run(chosen), strict=True)), default=0.0)

    return measure


def _error(exact: np.ndarray, made: np.ndarray) -> float:
    if not exact.size or exact.dtype.kind != "f":
        return 0.0
    scale = max(float(np.max(np.abs(exact))), 1e-12)
    worst = float(np.max(np.abs(exact - made)))
    return worst / scale if np.isfinite(worst) else math.inf
