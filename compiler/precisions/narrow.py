"""Choose the layers that multiply in bfloat16 or half precision: measured on sample inputs, within the error budget.

The source model runs in ONNX Runtime with a switch at every convolution and every product with constant weights; a
switched layer sees its operands rounded and sums in float32, as a compiled kernel for bfloat16 does. Those for half
precision round sums of some 64 products, too, for which a part of the budget is left. First each layer is switched
alone. Then layers are taken in the order of arithmetic gained for error caused, as many as the outputs of the whole
model, measured again, allow.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
import onnx
from onnx import TensorProto, helper

from edgec.compiler.frontends.onnx.ort_session import open_session
from edgec.compiler.frontends.source import SourceModel
from edgec.compiler.operands.operands import BFLOAT16, FLOAT16, Operands
from edgec.compiler.options import NARROW_SHARE
from edgec.compiler.verify.inputs import Arrays

_LAYERS = ("Conv", "Gemm", "MatMul")
PREFIX = "edgec_narrow_"  # of the names of switches, before the index of the source node
_TYPES = {BFLOAT16: TensorProto.BFLOAT16, FLOAT16: TensorProto.FLOAT16}


@dataclass(frozen=True)
class Layer:
    """A layer that could multiply narrower numbers."""

    node: int  # index of the source node
    weights: int  # elements of its weights


@dataclass(frozen=True)
class Choice:
    """The layers chosen, and the model's error with all of them narrow (relative to each output's largest)."""

    nodes: frozenset[int] = frozenset()
    error: float = 0.0
    alone: Mapping[int, float] = field(default_factory=dict)  # error of each layer on its own, where measured
    layers: int = 0  # that could be chosen


Measure: TypeAlias = "Callable[[Sequence[Layer]], float]"


def choose_layers(
    source: SourceModel, inputs: Arrays, budget: float, operands: Operands = BFLOAT16
) -> Choice:
    """The layers of `source` that can multiply `operands` within `budget` on `inputs`."""
    switched, layers = _with_switches(source, operands)
    if not layers:
        return Choice()
    measure, limit = measurer(switched, layers, inputs), NARROW_SHARE[operands.label] * budget
    return most_within(layers, measure, limit, whole_first=operands == FLOAT16)


def most_within(layers: Sequence[Layer], measure: Measure, limit: float, *, whole_first: bool) -> Choice:
    """As many layers as an error allows, those first that cost little error for many weights.

    Args:
        layers: that could be narrow.
        measure: the model's error with some of them narrow.
        limit: the largest error.
        whole_first: try all of them before each alone: as a rule all of them can.
    """
    if whole_first:
        error = measure(layers)
        if error <= limit:
            return Choice(frozenset(layer.node for layer in layers), error, layers=len(layers))
    alone = {layer.node: measure([layer]) for layer in layers}
    order = sorted(layers, key=lambda layer: (alone[layer.node] / layer.weights, layer.node))
    low, high, error = 0, len(order), 0.0
    while low < high:  # the longest beginning of the order that stays within the limit
        middle = (low + high + 1) // 2
        found = measure(order[:middle])
        if found <= limit:
            low, error = middle, found
        else:
            high = middle - 1
    return Choice(frozenset(layer.node for layer in order[:low]), error, alone, len(layers))


def _with_switches(source: SourceModel, operands: Operands) -> tuple[onnx.ModelProto, list[Layer]]:
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
        switch = f"{PREFIX}{origin}"
        layers.append(Layer(origin, math.prod(weight.dims)))
        graph.input.append(helper.make_tensor_value_info(switch, TensorProto.BOOL, []))
        for position in (0, 1):
            nodes += _rounded(node, position, switch, operands)
        nodes.append(node)
    del graph.node[:]
    graph.node.extend(nodes)
    return model, layers


def _rounded(node: onnx.NodeProto, position: int, switch: str, operands: Operands) -> list[onnx.NodeProto]:
    """Round an operand of `node` where the switch is on."""
    name, made = node.input[position], f"{switch}_{position}"
    node.input[position] = made
    return [
        helper.make_node("Cast", [name], [f"{made}_narrow"], to=_TYPES[operands]),
        helper.make_node("Cast", [f"{made}_narrow"], [f"{made}_back"], to=TensorProto.FLOAT),
        helper.make_node("Where", [switch, f"{made}_back", name], [made]),
    ]


def measurer(model: onnx.ModelProto, layers: Sequence[Layer], inputs: Arrays) -> Measure:
    """The error of a model with switches: of its outputs with some layers narrow, beside those with none."""
    session = open_session(model.SerializeToString(), threads=0)

    def run(chosen: Sequence[Layer]) -> list[np.ndarray]:
        on = {layer.node for layer in chosen}
        switches = {f"{PREFIX}{layer.node}": np.array(layer.node in on) for layer in layers}
        return list(session.run(None, {**inputs, **switches}))

    exact = run([])

    def measure(chosen: Sequence[Layer]) -> float:
        return max((error_of(a, b) for a, b in zip(exact, run(chosen), strict=True)), default=0.0)

    return measure


def error_of(exact: np.ndarray, made: np.ndarray) -> float:
    """The largest error of an output, relative to its largest value."""
    if not exact.size or exact.dtype.kind != "f":
        return 0.0
    scale = max(float(np.max(np.abs(exact))), 1e-12)
    worst = float(np.max(np.abs(exact - made)))
    return worst / scale if np.isfinite(worst) else math.inf
