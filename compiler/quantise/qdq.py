"""Write a quantised model: QuantizeLinear and DequantizeLinear nodes around what is computed in integers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import ModelProto, NodeProto, helper, numpy_helper

from edgec.compiler.frontends.onnx.graphs import free_names
from edgec.compiler.frontends.onnx.shape_inference import infer_shapes
from edgec.compiler.frontends.source import SourceModel
from edgec.compiler.quantise.calibrators import Grid, grid_of
from edgec.compiler.quantise.structure import Layer, Plan, Structure

LARGEST_BIAS = 2**30  # half of what 32 bits hold, so that the sum of products fits beside it
WEIGHT_LIMIT = 127  # symmetric: -128 is not used
# What two neighbours of one sign may add up to before they are rounded, up or down: 128 bytes of 255 fit 16 bits.
PAIR_LIMIT = 126

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Weights:
    """The parameters of a layer in integers.

    Attributes:
        values: int8, in the shape of the float weights.
        scales: float32, one per output channel.
    """

    values: npt.NDArray[np.int8]
    scales: npt.NDArray[np.float32]


def channels_last(weights: Array, axis: int) -> Array:
    """Weights as `[elements, channels]`."""
    return np.moveaxis(weights, axis, -1).reshape(-1, weights.shape[axis])


def spread(scales: npt.NDArray[np.float32], rank: int, axis: int) -> npt.NDArray[np.float32]:
    """One number per channel in the shape that multiplies weights of `rank` axes."""
    return scales.reshape([-1 if a == axis else 1 for a in range(rank)])


def weight_scales(
    weights: Array, axis: int, bias: Array | None, data_scale: float, *, paired: bool = False
) -> npt.NDArray[np.float32]:
    """The scale of each output channel: its largest weight becomes 127, unless its bias would not fit then.

    With `paired`, no two neighbouring weights of one sign add up to more than 128.
    """
    largest = np.abs(channels_last(weights, axis)).max(axis=0).astype(np.float64) / WEIGHT_LIMIT
    if paired and weights.shape[1 if axis == 0 else 0] > 1:
        largest = np.maximum(largest, _pair_sums(weights, axis) / PAIR_LIMIT)
    if bias is not None:
        largest = np.maximum(largest, np.abs(bias.reshape(-1)) / (LARGEST_BIAS * data_scale))
    return np.where(largest > np.finfo(np.float32).tiny, largest, 1.0).astype(np.float32)


def _pair_sums(weights: Array, axis: int) -> Array:
    """For each output channel the largest sum of two weights of one sign, neighbours along the reduced axis."""
    rows = np.moveaxis(weights, axis, 0).astype(np.float64)
    rows = rows.reshape(rows.shape[0], rows.shape[1], -1)
    rows = np.pad(rows, ((0, 0), (0, rows.shape[1] % 2), (0, 0)))
    parts = (np.maximum(rows, 0), np.maximum(-rows, 0))
    made: Array = np.max([(part[:, ::2] + part[:, 1::2]).max(axis=(1, 2)) for part in parts], axis=0)
    return made


def nearest_weights(weights: Array, axis: int, scales: npt.NDArray[np.float32]) -> Weights:
    """Weights rounded to the nearest integer."""
    steps = np.rint(weights / spread(scales, weights.ndim, axis))
    return Weights(np.clip(steps, -WEIGHT_LIMIT, WEIGHT_LIMIT).astype(np.int8), scales)


@dataclass(frozen=True)
class Parameters:
    """All that a quantised model needs beside the float one.

    Attributes:
        ranges: of activations and of constants that carriers read, by name.
        signed: whether activations are int8 rather than uint8.
        weights: by the position of the layer.
        biases: float biases by the position of the layer, where they were corrected.
    """

    ranges: Mapping[str, tuple[float, float]]
    signed: bool
    weights: Mapping[int, Weights]
    biases: Mapping[int, Array]


def grids_of(plan: Plan, parameters: Parameters) -> dict[str, Grid]:
    """The grid of every 8-bit activation: of the union of the ranges that share it."""
    ends: dict[str, tuple[float, float]] = {}
    for name, root in plan.tensors.items():
        low, high = parameters.ranges[name]
        before = ends.get(root, (low, high))
        ends[root] = min(before[0], low), max(before[1], high)
    return {name: grid_of(*ends[root], signed=parameters.signed) for name, root in plan.tensors.items()}


def quantised_model(structure: Structure, plan: Plan, parameters: Parameters) -> SourceModel:
    """The source model with the nodes of `plan` in integers."""
    return _Writer(structure, plan, parameters).write()


class _Writer:
    def __init__(self, structure: Structure, plan: Plan, parameters: Parameters) -> None:
        self.structure, self.plan, self.parameters = structure, plan, parameters
        self.grids = grids_of(plan, parameters)
        self.layers = {layer.position: layer for layer in plan.layers}
        self.nodes: list[NodeProto] = []
        self.constants: dict[str, Array] = {}
        self.origins = dict(structure.source.origins)
        self.taken = set(structure.types) | set(structure.producer)
        self.real: dict[str, str] = {}  # of quantised values, the dequantised ones
        self.scale_of: dict[Grid, tuple[str, str]] = {}

    def write(self) -> SourceModel:
        structure = self.structure
        for name in structure.inputs:
            if name in self.grids:
                self._round(name, structure.readers[name][0])
        for position, node in enumerate(structure.nodes):
            self.nodes.append(self._rewired(position, node))
            for name in node.output:
                if name in self.grids:
                    self._round(name, position)
        model = ModelProto()
        model.CopyFrom(structure.model)
        del model.graph.node[:]
        model.graph.node.extend(self.nodes)
        read = structure.outputs.union(*(free_names(node) for node in self.nodes))
        kept = [tensor for tensor in model.graph.initializer if tensor.name in read]
        del model.graph.initializer[:]
        model.graph.initializer.extend(kept)
        model.graph.initializer.extend(numpy_helper.from_array(a, n) for n, a in self.constants.items())
        del model.graph.value_info[:]
        model = infer_shapes(model)
        onnx.checker.check_model(model)
        return replace(structure.source, model=model, reference=model, original=None, origins=self.origins)

    def _rewired(self, position: int, node: NodeProto) -> NodeProto:
        made = NodeProto()
        made.CopyFrom(node)
        layer = self.layers.get(position)
        integer = position in self.plan.integer
        for i, name in enumerate(node.input):
            from_integer = self.structure.producer.get(name, -1) in self.plan.integer
            if name in self.real and (integer or from_integer):
                made.input[i] = self.real[name]
            elif integer and layer is None and name in self.plan.constants:
                made.input[i] = self._constant(name, position)
        if layer is not None:
            self._parameters(made, layer)
        return made

    def _parameters(self, node: NodeProto, layer: Layer) -> None:
        weights = self.parameters.weights[layer.position]
        values = self._keep(f"{layer.weight}_q{layer.position}", weights.values)
        scales = self._keep(f"{values}_scale", weights.scales)
        zeros = self._keep(f"{values}_zero", np.zeros(weights.scales.shape, np.int8))
        real = self._name(f"{values}_real")
        self._add("DequantizeLinear", [values, scales, zeros], real, layer.origin, axis=layer.axis)
        node.input[1] = real
        bias = self.parameters.biases.get(layer.position)
        if bias is None:
            bias = self.structure.array(layer.bias) if layer.bias else None
        if bias is None or (layer.kind == "MatMul"):
            return
        grid = self.grids[layer.data]
        steps = (np.float32(grid.scale) * weights.scales).astype(np.float32)
        whole = np.rint(bias.reshape(-1).astype(np.float64) / steps)
        limit = 2**31 - 1
        held = self._keep(f"{values}_bias", np.clip(whole, -limit, limit).astype(np.int32))
        step = self._keep(f"{held}_scale", steps)
        zero = self._keep(f"{held}_zero", np.zeros(steps.shape, np.int32))
        real = self._name(f"{held}_real")
        self._add("DequantizeLinear", [held, step, zero], real, layer.origin, axis=0)
        if len(node.input) > 2:
            node.input[2] = real
        else:
            node.input.append(real)

    def _round(self, name: str, position: int) -> None:
        scale, zero = self._grid(self.grids[name])
        whole, real = self._name(f"{name}_q"), self._name(f"{name}_real")
        known = self.structure.source.origins.get(name)
        if known is None:
            reader = self.structure.nodes[position]
            known = next((self.origins[o] for o in reader.output if o in self.origins), 0)
        self._add("QuantizeLinear", [name, scale, zero], whole, known)
        self._add("DequantizeLinear", [whole, scale, zero], real, known)
        self.real[name] = real

    def _constant(self, name: str, position: int) -> str:
        if name not in self.real:
            array = self.structure.array(name)
            grid = grid_of(float(array.min()), float(array.max()), signed=self.parameters.signed)
            scale, zero = self._grid(grid)
            held, real = self._keep(f"{name}_q", grid.quantised(array)), self._name(f"{name}_real")
            reader = self.structure.nodes[position]
            origin = next((self.origins[o] for o in reader.output if o in self.origins), 0)
            self._add("DequantizeLinear", [held, scale, zero], real, origin)
            self.real[name] = real
        return self.real[name]

    def _grid(self, grid: Grid) -> tuple[str, str]:
        if grid not in self.scale_of:
            number = len(self.scale_of)
            scale = self._keep(f"edgec_scale_{number}", np.array(grid.scale, np.float32))
            zero = self._keep(f"edgec_zero_{number}", np.array(grid.zero, grid.dtype))
            self.scale_of[grid] = scale, zero
        return self.scale_of[grid]

    def _add(self, kind: str, inputs: list[str], output: str, origin: int, **attributes: int) -> None:
        self.nodes.append(helper.make_node(kind, inputs, [output], name=output, **attributes))
        self.origins[output] = origin

    def _keep(self, name: str, array: Array) -> str:
        name = self._name(name)
        self.constants[name] = array
        return name

    def _name(self, wanted: str) -> str:
        name, number = wanted, 1
        while name in self.taken:
            name, number = f"{wanted}_{number}", number + 1
        self.taken.add(name)
        return name


def default_weights(
    structure: Structure,
    plan: Plan,
    grids: Mapping[str, Grid],
    biases: Mapping[int, Array],
    *,
    paired: bool = False,
) -> dict[int, Weights]:
    """The weights of every layer of a plan, rounded to the nearest; `paired` as for `weight_scales`."""
    made = {}
    for layer in plan.layers:
        weights = structure.array(layer.weight)
        bias = biases.get(layer.position, structure.array(layer.bias) if layer.bias else None)
        scales = weight_scales(weights, layer.axis, bias, float(grids[layer.data].scale), paired=paired)
        made[layer.position] = nearest_weights(weights, layer.axis, scales)
    return made
