"""What of a model is computed in 8 bits, for a given choice of layers.

A *layer* is a product with constant weights. A *carrier* is a node between layers that can stay in integers: additions,
pooling, concatenation, functions of one value (by table), and what only moves values. Carriers follow the layers: one
is computed in integers if all that it reads comes from integer nodes, and an integer node reads its result.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from edgec.compiler.frontends.onnx.graphs import free_names
from edgec.compiler.frontends.source import SourceModel

LAYERS = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
# Their results are values of their input, so that input and output share a grid.
MOVING = frozenset(
    {
        "MaxPool", "Reshape", "Transpose", "Flatten", "Squeeze", "Unsqueeze", "Identity", "Slice", "Split",
        "DepthToSpace", "SpaceToDepth", "Gather", "Expand", "Tile",
    }
)  # fmt: skip
OF_ONE = frozenset(
    {
        "Relu",
        "Clip",
        "Sigmoid",
        "HardSigmoid",
        "HardSwish",
        "Tanh",
        "LeakyRelu",
        "Elu",
        "PRelu",
        "Softplus",
        "Mish",
    }
)
COMBINING = frozenset(
    {"Add", "Sub", "Mul", "Concat", "AveragePool", "GlobalAveragePool", "ReduceMean", "Resize", "Pad"}
)
CARRIERS = MOVING | OF_ONE | COMBINING
CLIPPING = frozenset({"Relu", "Clip"})
_DATA = {
    "Concat": None,
    "Add": (0, 1),
    "Sub": (0, 1),
    "Mul": (0, 1),
}  # the operands that are values; else the first


@dataclass(frozen=True)
class Layer:
    """A product with constant weights.

    Attributes:
        position: of its node in the graph.
        origin: index of the source node.
        label: the source node's name, as kernels are labelled with it.
        name: of the node itself where the source knows it: after folding, a convolution may stand at the place of the
            normalisation behind it.
        data, weight, bias, output: names of values; `bias` is None without one.
        axis: of the output channels in the weights.
        kind: its operator.
        groups: of a convolution.
        size: elements of the weights.
    """

    position: int
    origin: int
    label: str
    name: str
    data: str
    weight: str
    bias: str | None
    output: str
    axis: int
    kind: str
    groups: int
    size: int


@dataclass(frozen=True)
class Plan:
    """What is computed in integers.

    Attributes:
        layers: in 8 bits.
        integer: positions of all nodes computed in integers.
        tensors: activations that are 8-bit integers, each with the tensor whose range names its grid.
        constants: constants that carriers read as 8-bit integers.
    """

    layers: tuple[Layer, ...]
    integer: frozenset[int]
    tensors: Mapping[str, str]
    constants: frozenset[str]


class Structure:
    """The graph of a prepared float model."""

    def __init__(self, source: SourceModel) -> None:
        self.source, self.model = source, source.model
        graph = source.model.graph
        self.nodes: list[NodeProto] = list(graph.node)
        self.constants: dict[str, TensorProto] = {tensor.name: tensor for tensor in graph.initializer}
        self.types = {t.name: t.data_type for t in graph.initializer}
        for value in (*graph.input, *graph.value_info, *graph.output):
            self.types[value.name] = value.type.tensor_type.elem_type
        self.inputs = {value.name for value in graph.input}
        self.outputs = {value.name for value in graph.output}
        self.producer = {name: i for i, node in enumerate(self.nodes) for name in node.output if name}
        self.readers: dict[str, list[int]] = {}
        for i, node in enumerate(self.nodes):
            for name in dict.fromkeys((*node.input, *sorted(free_names(node)))):
                if name:
                    self.readers.setdefault(name, []).append(i)

    @cached_property
    def layers(self) -> tuple[Layer, ...]:
        """All layers that could be computed in 8 bits, in the order of the graph."""
        found = []
        for position, node in enumerate(self.nodes):
            layer = self._layer(position, node)
            if layer is not None:
                found.append(layer)
        return tuple(found)

    def array(self, name: str) -> npt.NDArray[np.generic]:
        """The value of a constant."""
        return np.asarray(numpy_helper.to_array(self.constants[name]))

    def work(self) -> dict[int, float]:
        """The multiply-adds of each layer, by position; its weights where the shape of its result is unknown."""
        shapes = {}
        for value in (*self.model.graph.value_info, *self.model.graph.output):
            dims = value.type.tensor_type.shape.dim
            shapes[value.name] = [max(int(d.dim_value), 1) for d in dims]
        found = {}
        for layer in self.layers:
            shape = shapes.get(layer.output, [])
            channels = self.constants[layer.weight].dims[layer.axis]
            found[layer.position] = float(layer.size * max(int(np.prod(shape)), channels) / channels)
        return found

    def _layer(self, position: int, node: NodeProto) -> Layer | None:
        if node.op_type not in LAYERS or node.domain not in ("", "ai.onnx") or len(node.input) < 2:
            return None
        data, weight = node.input[0], node.input[1]
        tensor = self.constants.get(weight)
        bias = node.input[2] if len(node.input) > 2 and node.input[2] else None
        if data in self.constants or tensor is None or tensor.data_type != TensorProto.FLOAT:
            return None
        if self.types.get(data) not in (None, TensorProto.FLOAT) or (bias and bias not in self.constants):
            return None
        attrs = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        rank = len(tensor.dims)
        if node.op_type == "Gemm":
            scaled = attrs.get("alpha", 1.0) != 1.0 or attrs.get("beta", 1.0) != 1.0 or attrs.get("transA", 0)
            axis = 0 if attrs.get("transB", 0) else 1
            columns = tensor.dims[axis]
            biased = bias is None or list(self.constants[bias].dims) in ([columns], [1, columns])
            if scaled or not biased:
                return None
        elif node.op_type == "MatMul":
            if rank != 2:
                return None
            axis = 1
        else:
            axis = 1 if node.op_type == "ConvTranspose" else 0
            if node.op_type == "ConvTranspose" and attrs.get("group", 1) != 1:
                return None
        origin = self.source.origins.get(node.output[0], 0)
        nodes = self.source.nodes
        label = nodes[origin].label if origin < len(nodes) else node.name
        groups, size = int(attrs.get("group", 1)), int(np.prod(tensor.dims))
        name = node.name if node.name in {known.name for known in nodes} else label
        return Layer(
            position,
            origin,
            label,
            name,
            data,
            weight,
            bias,
            node.output[0],
            axis,
            node.op_type,
            groups,
            size,
        )

    def plan(self, chosen: Collection[int]) -> Plan:
        """What is computed in integers if the layers at the positions `chosen` are."""
        layers = tuple(layer for layer in self.layers if layer.position in chosen)
        integer = self._integer({layer.position for layer in layers})
        inner = self._internal(integer)
        tensors: dict[str, None] = {}
        constants = set[str]()
        own = {layer.position for layer in layers}
        for position in sorted(integer):
            node = self.nodes[position]
            for name in self._operands(node) if position not in own else (node.input[0],):
                if name in self.constants:
                    constants.add(name)
                elif name not in inner:
                    tensors[name] = None
            for name in node.output:
                if name and name not in inner and any(r in integer for r in self.readers.get(name, ())):
                    tensors[name] = None
        biases = {other for name in inner for other in self.nodes[self.readers[name][0]].input}
        return Plan(layers, frozenset(integer), self._grids(tensors, integer), frozenset(constants - biases))

    def _operands(self, node: NodeProto) -> list[str]:
        """The inputs of a carrier that hold values, rather than shapes and the like."""
        which = _DATA.get(node.op_type, (0,))
        return [n for i, n in enumerate(node.input) if n and (which is None or i in which)]

    def _carries(self, node: NodeProto) -> bool:
        if node.op_type not in CARRIERS or node.domain not in ("", "ai.onnx"):
            return False
        operands = self._operands(node)
        kinds = {self.types.get(name, TensorProto.FLOAT) for name in operands}
        moving = [n for n in operands if n not in self.constants]
        known = all(n in self.constants for n in node.input if n and n not in operands)
        if node.op_type == "Resize":
            mode = next(
                (helper.get_attribute_value(a) for a in node.attribute if a.name == "mode"), b"nearest"
            )
            known = known and mode in (b"nearest", b"linear")
        return bool(moving) and known and kinds <= {TensorProto.FLOAT}

    def _integer(self, layers: set[int]) -> set[int]:
        candidates = set(layers)
        for position, node in enumerate(self.nodes):
            if position in candidates or not self._carries(node):
                continue
            sources = [n for n in self._operands(node) if n not in self.constants]
            early = node.op_type in MOVING and all(n in self.inputs for n in sources)
            if early or all(self.producer.get(n, -1) in candidates for n in sources):
                candidates.add(position)
        for position in sorted(candidates - layers, reverse=True):
            read = any(
                r in candidates for name in self.nodes[position].output for r in self.readers.get(name, ())
            )
            if not read:
                candidates.discard(position)
        return candidates

    def _internal(self, integer: set[int]) -> set[str]:
        """Values between nodes that are one kernel: a layer, what it adds to every row, and a clipping behind it."""
        found = set[str]()
        for position in sorted(integer):
            node = self.nodes[position]
            if len(node.output) != 1 or node.op_type in MOVING:
                continue
            name = node.output[0]
            readers = self.readers.get(name, [])
            if len(readers) != 1 or readers[0] not in integer or name in self.outputs:
                continue
            after = self.nodes[readers[0]]
            clips = after.op_type in CLIPPING and after.input[0] == name and node.op_type not in OF_ONE
            adds = (
                node.op_type == "MatMul"
                and after.op_type == "Add"
                and any(other in self.constants for other in after.input)
            )
            if clips or adds:
                found.add(name)
        return found

    def _grids(self, tensors: Mapping[str, None], integer: set[int]) -> dict[str, str]:
        """The representative of each tensor's grid: those that nodes move values between share one."""
        parent = {name: name for name in tensors}

        def root(name: str) -> str:
            while parent[name] != name:
                name = parent[name]
            return name

        for position in sorted(integer):
            node = self.nodes[position]
            nearest = node.op_type == "Resize" and not any(
                a.name == "mode" and a.s != b"nearest" for a in node.attribute
            )
            if node.op_type in MOVING or nearest:
                joined = [n for n in (node.input[0], *node.output) if n in parent]
                for name in joined[1:]:
                    parent[root(name)] = root(joined[0])
        return {name: root(name) for name in tensors}


def opset(model: ModelProto) -> int:
    """The version of the standard's operators."""
    return next((e.version for e in model.opset_import if e.domain in ("", "ai.onnx")), 1)
