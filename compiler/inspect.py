"""Describe a model without compiling it: inputs, operators, cost, memory, and the nodes that can be compiled."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import onnx
from onnx import ModelProto, NodeProto

from edgec.compiler.errors import InputShapeError, Unsupported, UnsupportedModel
from edgec.compiler.frontends import to_relax
from edgec.compiler.frontends.load import read_any, source_of
from edgec.compiler.frontends.onnx.shapes import describe_shape, strip_initializer_inputs
from edgec.compiler.options import CompileOptions


@dataclass(frozen=True)
class ModelSummary:
    """Facts about a model.

    Attributes:
        inputs, outputs: name to `float32 1x3x224x224` (symbolic sizes by name).
        operators: `Conv` or `com.microsoft:Gelu` to how often, in the file's main graph.
        parameters: number of stored weights, and their bytes.
        multiply_adds: of one run; None while input sizes are free.
        activation_bytes: largest sum of values that are alive at once; None while sizes are free.
        nodes_compiled: nodes left after folding, all of them compiled unless listed in `unsupported`.
        unsupported: nodes that cannot be compiled.
        states: the inputs that outputs of the run before feed, with those outputs.
        missing: what has to be given before it can be compiled.
    """

    path: str
    digest: str
    producer: str
    ir_version: int
    opsets: Mapping[str, int]
    inputs: Mapping[str, str]
    outputs: Mapping[str, str]
    nodes: int
    operators: Mapping[str, int]
    parameters: int
    parameter_bytes: int
    multiply_adds: int | None = None
    activation_bytes: int | None = None
    nodes_compiled: int | None = None
    unsupported: tuple[Unsupported, ...] = ()
    states: tuple[tuple[str, str], ...] = ()
    missing: str | None = None
    notes: tuple[str, ...] = field(default=())

    def to_json(self) -> dict[str, Any]:
        """The fields as JSON-serialisable values."""
        return asdict(self)


def inspect_model(path: Path, options: CompileOptions) -> ModelSummary:
    """Describe a model without compiling it.

    Raises:
        ModelError: the file is damaged, hostile or no model.
    """
    loaded = read_any(path, options)
    model = loaded.model
    strip_initializer_inputs(model)
    weights = [t for t in model.graph.initializer if t.data_type != onnx.TensorProto.STRING]
    facts: dict[str, Any] = {
        "path": str(path),
        "digest": loaded.digest,
        "producer": f"{model.producer_name} {model.producer_version}".strip(),
        "ir_version": model.ir_version,
        "opsets": {e.domain or "ai.onnx": e.version for e in model.opset_import} or {"ai.onnx": 1},
        "inputs": {value.name: _typed(value) for value in model.graph.input},
        "outputs": {value.name: _typed(value) for value in model.graph.output},
        "nodes": len(model.graph.node),
        "operators": dict(Counter(operator_name(n) for n in model.graph.node).most_common()),
        "parameters": sum(math.prod(t.dims) for t in weights),
        "parameter_bytes": sum(
            math.prod(t.dims) * onnx.helper.tensor_dtype_to_np_dtype(t.data_type).itemsize for t in weights
        ),
    }
    try:
        source = source_of(loaded, path, options)
    except InputShapeError as error:
        return ModelSummary(**facts, missing=str(error))
    unsupported: tuple[Unsupported, ...] = ()
    try:
        to_relax(source)
    except UnsupportedModel as error:
        unsupported = error.nodes
    return ModelSummary(
        **facts,
        multiply_adds=multiply_adds(source.model),
        activation_bytes=peak_activations(source.model),
        nodes_compiled=len(source.model.graph.node),
        unsupported=unsupported,
        states=tuple((state.input, state.output) for state in source.states),
        notes=source.notes,
    )


def operator_name(node: NodeProto) -> str:
    """An operator's name, with its domain unless that is the default one."""
    return f"{node.domain}:{node.op_type}" if node.domain not in ("", "ai.onnx") else node.op_type


def _typed(value: onnx.ValueInfoProto) -> str:
    kind = value.type.WhichOneof("value")
    if kind != "tensor_type":
        return kind or "unknown"
    elem = value.type.tensor_type.elem_type
    name = onnx.TensorProto.DataType.Name(elem).lower() if elem else "unknown"
    return f"{ {'float': 'float32', 'double': 'float64'}.get(name, name) } {describe_shape(value)}"


def static_shapes(model: ModelProto) -> dict[str, tuple[int, ...]]:
    """The shapes that are known of a model's values."""
    graph = model.graph
    shapes: dict[str, tuple[int, ...]] = {t.name: tuple(t.dims) for t in graph.initializer}
    for value in (*graph.input, *graph.value_info, *graph.output):
        tensor = value.type.tensor_type
        if tensor.HasField("shape") and all(d.HasField("dim_value") for d in tensor.shape.dim):
            shapes[value.name] = tuple(d.dim_value for d in tensor.shape.dim)
    return shapes


def multiply_adds(model: ModelProto) -> int:
    """Multiply-adds of one run in convolutions, matrix products and recurrent layers."""
    shapes = static_shapes(model)
    return sum(node_multiply_adds(node, shapes) for node in model.graph.node)


def node_multiply_adds(node: NodeProto, shapes: Mapping[str, tuple[int, ...]]) -> int:
    """Multiply-adds of one node; 0 for operators that do not multiply and add."""
    inputs = [shapes.get(name) for name in node.input]
    output = shapes.get(node.output[0]) if node.output else None
    if output is None or not inputs or inputs[0] is None:
        return 0
    if node.op_type in ("Conv", "ConvInteger", "FusedConv", "QLinearConv"):
        weight = inputs[3] if node.op_type == "QLinearConv" else inputs[1]
        return math.prod(output) * math.prod(weight[1:]) if weight else 0
    if node.op_type == "ConvTranspose" and inputs[1]:
        return math.prod(inputs[0]) * math.prod(inputs[1][1:])
    if node.op_type in ("MatMul", "MatMulInteger", "QLinearMatMul"):
        return math.prod(output) * inputs[0][-1]
    if node.op_type == "Gemm":
        flipped = any(a.name == "transA" and a.i for a in node.attribute)
        return math.prod(output) * inputs[0][0 if flipped else 1]
    if node.op_type in ("LSTM", "GRU", "RNN") and len(inputs) > 2 and inputs[1] and inputs[2]:
        steps = inputs[0][0] * inputs[0][1]
        return steps * (math.prod(inputs[1]) + math.prod(inputs[2]))
    return 0


def peak_activations(model: ModelProto) -> int:
    """Bytes of all values alive at once at the worst moment, nodes run in the graph's order."""
    graph, shapes = model.graph, static_shapes(model)
    constant = {t.name for t in graph.initializer}
    width: dict[str, int] = {}
    for value in (*graph.input, *graph.value_info, *graph.output):
        elem = value.type.tensor_type.elem_type
        if value.name in shapes and elem and elem != onnx.TensorProto.STRING:
            width[value.name] = onnx.helper.tensor_dtype_to_np_dtype(elem).itemsize

    def bytes_of(name: str) -> int:
        return 0 if name in constant else math.prod(shapes.get(name, (0,))) * width.get(name, 0)

    last = {name: i for i, node in enumerate(graph.node) for name in node.input}
    last |= {value.name: len(graph.node) for value in graph.output}
    alive = sum(bytes_of(value.name) for value in graph.input)
    peak = alive
    for i, node in enumerate(graph.node):
        alive += sum(bytes_of(name) for name in node.output)
        peak = max(peak, alive)
        alive -= sum(bytes_of(name) for name in {*node.input, *node.output} if last.get(name, i) == i)
    return peak
