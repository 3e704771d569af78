"""Choose the layers that multiply in bfloat16 or half precision: measured on sample inputs, within the error budget.

The source model runs in ONNX Runtime with a switch at every convolution and every product with constant weights; a
switched layer sees its operands rounded and sums in float32, as a compiled kernel for bfloat16 does. Those for half
precision round sums of some 64 products, too, for which a part of the budget is left. First each layer is switched
alone. Then layers are taken in the order of arithmetic gained for error caused, as many as the outputs of the whole
model, measured again, allow. All that verification compares on counts: plausible inputs, zeros, large numbers, NaN.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np
import onnx
from onnx import TensorProto, helper

from edgec.compiler.frontends.onnx.ort_session import ORT_ERRORS, open_session
from edgec.compiler.frontends.source import SourceModel
from edgec.compiler.operands.operands import BFLOAT16, FLOAT16, Operands
from edgec.compiler.options import NARROW_SHARE
from edgec.compiler.precisions.samples import error_on, samples_of
from edgec.compiler.verify.extremes import Probe
from edgec.compiler.verify.inputs import Arrays

_LAYERS = ("Conv", "Gemm", "MatMul")
SKIPPED = 3  # layers that exceed the error in their turn: those behind them are tried without them
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


@dataclass(frozen=True)
class Limit:
    """What another choice has to keep to, where the first one was too coarse as compiled.

    Attributes:
        error: the largest of the chosen layers.
        nodes: those to choose from; None for all. Layers that have no narrow kernel would only take up the error.
    """

    error: float = math.inf
    nodes: frozenset[int] | None = None


ANY = Limit()


class Measure(Protocol):
    """The model's error with some layers narrow."""

    def __call__(self, chosen: Sequence[Layer], limit: float = math.inf) -> float:
        """The largest on any sample; or one above `limit`, if there is one."""

    def alone(self, layers: Sequence[Layer]) -> dict[int, float]:
        """The error of each layer on its own, by node: on the main sample and that on which all together are worst."""


def choose_layers(
    source: SourceModel,
    inputs: Arrays,
    budget: float,
    operands: Operands = BFLOAT16,
    limit: Limit = ANY,
) -> Choice:
    """The layers of `source` that can multiply `operands` within `budget`, on `inputs` and on extremes made of them.

    Args:
        source: the model.
        inputs: plausible ones.
        budget: the largest error of the whole result; a part of it is for other causes.
        operands: what the layers multiply.
        limit: where less than the budget allows is wanted.
    """
    switched, layers = _with_switches(source, operands)
    if not layers:
        return Choice()
    samples = samples_of(source, inputs, half=operands == FLOAT16)
    allowed = [layer for layer in layers if limit.nodes is None or layer.node in limit.nodes]
    most = min(NARROW_SHARE[operands.label] * budget, limit.error)
    measure = Switches(switched, layers, samples)
    return replace(most_within(allowed, measure, most, whole_first=operands == FLOAT16), layers=len(layers))


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
    alone = measure.alone(layers)
    able = [layer for layer in layers if alone[layer.node] <= limit]
    left = sorted(able, key=lambda layer: (alone[layer.node] / layer.weights, layer.node))
    taken, error = list[Layer](), 0.0
    for _ in range(SKIPPED + 1):
        more, error = _most_beside(taken, left, measure, limit, error)
        taken, left = [*taken, *left[:more]], left[more + 1 :]
    return Choice(frozenset(layer.node for layer in taken), error, alone, len(layers))


def _most_beside(
    taken: Sequence[Layer], left: Sequence[Layer], measure: Measure, limit: float, error: float
) -> tuple[int, float]:
    """How many of the first layers of `left` stay within the limit beside those taken, and the error with them."""
    low, high = 0, len(left)
    while low < high:
        middle = (low + high + 1) // 2
        found = measure([*taken, *left[:middle]], limit)
        if found <= limit:
            low, error = middle, found
        else:
            high = middle - 1
    return low, error


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


class Switches:
    """A model with switches, run by ONNX Runtime: the error with some layers narrow beside those with none.

    Samples that ONNX Runtime refuses are left out, the first of them excepted.
    """

    def __init__(self, model: onnx.ModelProto, layers: Sequence[Layer], samples: Sequence[Probe]) -> None:
        self._session = open_session(model.SerializeToString(), threads=0)
        self._names = [output.name for output in self._session.get_outputs()]
        self._layers = layers
        self._exact: list[tuple[Probe, list[np.ndarray]]] = []
        for number, sample in enumerate(samples):
            try:
                self._exact.append((sample, self._run(sample, [])))
            except ORT_ERRORS:
                if not number:
                    raise

    def __call__(self, chosen: Sequence[Layer], limit: float = math.inf) -> float:
        """See `Measure`."""
        worst = 0.0
        for number in range(len(self._exact)):
            worst = max(worst, self._error(number, chosen))
            if worst > limit:
                break
        return worst

    def alone(self, layers: Sequence[Layer]) -> dict[int, float]:
        """See `Measure`."""
        numbers = range(len(self._exact))
        worst = max(numbers, key=lambda number: self._error(number, layers))
        return {layer.node: max(self._error(number, [layer]) for number in {0, worst}) for layer in layers}

    def _error(self, number: int, chosen: Sequence[Layer]) -> float:
        sample, exact = self._exact[number]
        return error_on(sample, self._names, exact, self._run(sample, chosen))

    def _run(self, sample: Probe, chosen: Sequence[Layer]) -> list[np.ndarray]:
        on = {layer.node for layer in chosen}
        switches = {f"{PREFIX}{layer.node}": np.array(layer.node in on) for layer in self._layers}
        return list(self._session.run(None, {**sample.inputs, **switches}))
