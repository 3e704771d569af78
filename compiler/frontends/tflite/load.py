"""The front end of TensorFlow Lite files: fp32, int8 and uint8, dynamic range."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import ModelProto, ValueInfoProto, helper

from edgec.compiler.errors import ModelError, ToolMissing, Unsupported, UnsupportedModel
from edgec.compiler.frontends.interface import Loaded, read_file
from edgec.compiler.frontends.source import State
from edgec.compiler.frontends.tflite import (
    casting,
    control_flow,
    convolution,
    detection,
    elementwise,
    gathering,
    mediapipe,
    normalisation,
    padding,
    pooling,
    recurrent,
    reductions,
    shapes,
    shaping,
    slicing,
    spectral,
    stablehlo,
    suppression,
    variables,
    volumes,
    windows,
)
from edgec.compiler.frontends.tflite.flat import Graph, Model, Tensor, read
from edgec.compiler.frontends.tflite.graph import Refused, Writer, is_quantised
from edgec.compiler.frontends.tflite.registry import convert_operators
from edgec.compiler.options import CompileOptions

OPSET = 18
OPSET_INT16 = 21  # the first whose QuantizeLinear supports int16
OPSET_BITCAST = 26  # the first with BitCast
REMEDY = (
    "Convert the model without this operator, or to ONNX (tf2onnx), where what cannot be compiled runs "
    "through ONNX Runtime."
)
# Importing them fills the table of converters.
TABLES = (
    casting,
    control_flow,
    convolution,
    detection,
    elementwise,
    gathering,
    mediapipe,
    normalisation,
    padding,
    pooling,
    recurrent,
    reductions,
    shaping,
    slicing,
    spectral,
    stablehlo,
    suppression,
    variables,
    volumes,
    windows,
)

Arrays = Mapping[str, npt.NDArray[np.generic]]


def load(path: Path, options: CompileOptions) -> Loaded:
    """Read a TensorFlow Lite file as ONNX in QDQ form.

    Quantised tensors become real numbers rounded to their grid (QuantizeLinear, DequantizeLinear) after every
    operator. Inputs and outputs keep their types, int8 included.

    Raises:
        ModelError: damaged.
        UnsupportedModel: some operators cannot be converted; the exception lists them all.
        ToolMissing: ai-edge-litert is not installed.
    """
    content, digest = read_file(path)
    return load_content(content, digest, path, options)


def load_content(content: bytes, digest: str, path: Path, options: CompileOptions) -> Loaded:
    """Read the content of a TensorFlow Lite file; see `load`.

    Args:
        digest: `sha256:…` of the content.
        path: the file, for messages.
    """
    stored = read(content, path)
    names = dict(zip(stored.main.inputs, _port_names(stored.main)[0], strict=True))
    sizes = shapes.chosen(stored, names, options.fixed_shapes())
    stored = shapes.settled(stored, content, sizes, path)
    model, states = converted(stored, path)
    return Loaded(model, digest, _litert(path, content, stored, model, sizes), states)


def to_onnx(stored: Model, path: Path) -> ModelProto:
    """The model as ONNX; see `load`."""
    return converted(stored, path)[0]


def converted(stored: Model, path: Path) -> tuple[ModelProto, tuple[State, ...]]:
    """The model as ONNX, and its variables, which are the last of its inputs and outputs; see `load`."""
    graph = stored.main
    g = Writer(stored)
    input_names, output_names = _port_names(graph)
    inputs = []
    for index, name in zip(graph.inputs, input_names, strict=True):
        tensor = graph.tensors[index]
        inputs.append(_value(name, tensor))
        if is_quantised(tensor):
            g.prefix = "input"
            try:
                g.put_integers(index, name)
            except Refused as refused:
                raise ModelError(f"{path}: its input {tensor.name!r} cannot be read: {refused}") from refused
        else:
            g.native[index] = name
    _convert_all(g)
    outputs = []
    g.prefix = "output"
    for index, name in zip(graph.outputs, output_names, strict=True):
        tensor = graph.tensors[index]
        try:
            made = g.integers(index)
        except Refused as refused:
            raise ModelError(f"{path}: its output {tensor.name!r} cannot be computed: {refused}") from refused
        g.nodes.append(helper.make_node("Identity", [made], [name], name=f"output/{name}"))
        outputs.append(_value(name, tensor, shaped=False))
    more_inputs, more_outputs, states = variables.ports(g, {value.name for value in (*inputs, *outputs)})
    wide = any(
        value.dtype == np.int16 and node.op_type in ("QuantizeLinear", "DequantizeLinear")
        for node in g.nodes
        for value in (g.stored_constant(name) for name in node.input[2:] if g.has_constant(name))
    )
    number = OPSET_INT16 if wide else OPSET
    number = OPSET_BITCAST if any(node.op_type == "BitCast" for node in g.nodes) else number
    opset = helper.make_opsetid("", number)
    model = helper.make_model(
        helper.make_graph(
            g.nodes, "tflite", [*inputs, *more_inputs], [*outputs, *more_outputs], g.initialisers
        ),
        opset_imports=[opset],
        ir_version=10 if number > OPSET else 8,
        producer_name="edgec",
    )
    return model, tuple(states)


def _convert_all(g: Writer) -> None:
    refused = convert_operators(g)
    if refused:
        raise UnsupportedModel([_unsupported(g.graph, op.index, reason) for op, reason in refused])


def _unsupported(graph: Graph, index: int, reason: str) -> Unsupported:
    operator = graph.operators[index]
    first = operator.outputs[0] if operator.outputs else -1
    name = graph.tensors[first].name if first >= 0 else f"{operator.kind}#{index}"
    return Unsupported(index, name, operator.kind, "TensorFlow Lite", reason, REMEDY)


def _port_names(graph: Graph) -> tuple[list[str], list[str]]:
    """Names of inputs and of outputs, all different: tensors of the same name are numbered.

    A tensor may be an output twice, or an input and an output.
    """
    names: list[str] = []
    for index in (*graph.inputs, *graph.outputs):
        name = graph.tensors[index].name
        unique, number = name, index
        while unique in names:
            unique, number = f"{name}_{number}", number + 1
        names.append(unique)
    return names[: len(graph.inputs)], names[len(graph.inputs) :]


def _value(name: str, tensor: Tensor, *, shaped: bool = True) -> ValueInfoProto:
    try:
        kind = helper.np_dtype_to_tensor_dtype(np.dtype(tensor.dtype))
    except TypeError as error:
        raise ModelError(f"{tensor.name!r} is a {tensor.dtype} tensor, which cannot be compiled") from error
    return helper.make_tensor_value_info(name, kind, tensor.shape if shaped else None)


def _litert(
    path: Path, content: bytes, stored: Model, model: ModelProto, sizes: Mapping[int, tuple[int, ...]]
) -> LiteRt | None:
    if not runs_in_litert(stored):
        return None
    try:
        from ai_edge_litert.interpreter import Interpreter, OpResolverType
    except ImportError as error:
        raise ToolMissing(f"{path}: verifying needs LiteRT: pip install 'edgec[tflite]'") from error
    plain = OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES

    def begin(**kernels: Any) -> Any:  # noqa: ANN401 - an interpreter of LiteRT
        interpreter = Interpreter(model_content=content, num_threads=1, **kernels)
        for index, shape in sizes.items():
            interpreter.resize_tensor_input(index, shape)
        interpreter.allocate_tensors()
        return interpreter

    try:
        made = [begin(), begin(experimental_op_resolver_type=plain)]
        if variables.has_variables(stored):
            return LiteRtWithVariables(begin, made[1], stored.main, model)
    except (ValueError, RuntimeError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else "no reason given"
        raise ModelError(f"{path}: LiteRT rejects this model: {reason[:200]}") from error
    return LiteRt(made[0], made[1], stored.main, model)


def runs_in_litert(stored: Model) -> bool:
    """Whether LiteRT has all operators of a model, which it may lack of MediaPipe's."""
    return not any(op.kind in mediapipe.KINDS for graph in stored.graphs for op in graph.operators)


class LiteRt:
    """LiteRT as the reference: its default kernels, and those without XNNPACK for comparison."""

    def __init__(self, interpreter: Any, other: Any, graph: Graph, model: ModelProto) -> None:  # noqa: ANN401
        self._interpreter, self._other = interpreter, other
        # the inputs and outputs that follow are variables, which LiteRT keeps itself
        self._inputs = {v.name: i for v, i in zip(model.graph.input, graph.inputs, strict=False)}
        self._outputs = {v.name: i for v, i in zip(model.graph.output, graph.outputs, strict=False)}
        self.description = f"LiteRT {metadata.version('ai-edge-litert')}"

    def run(self, inputs: Arrays) -> dict[str, npt.NDArray[np.generic]]:
        """The outputs by name; states that the model keeps between calls begin at zero."""
        return self._run(self._interpreter, inputs)

    def spread(self, inputs: Arrays) -> dict[str, float]:
        """How far LiteRT's own sets of kernels differ on these inputs."""
        a, b = self._run(self._interpreter, inputs), self._run(self._other, inputs)
        pairs = {name: (a[name].astype(np.float64), b[name].astype(np.float64)) for name in a}
        return {name: float(np.abs(x - y).max(initial=0.0)) for name, (x, y) in pairs.items()}

    def _run(self, interpreter: Any, inputs: Arrays) -> dict[str, npt.NDArray[np.generic]]:  # noqa: ANN401
        interpreter.reset_all_variables()
        for name, index in self._inputs.items():
            interpreter.set_tensor(index, inputs[name])
        interpreter.invoke()
        return {name: interpreter.get_tensor(index) for name, index in self._outputs.items()}


class LiteRtWithVariables(LiteRt):
    """LiteRT for a model with resource variables, which begin anew only in an interpreter of their own.

    Args:
        begin: makes an interpreter, by default with LiteRT's usual kernels.
    """

    def __init__(self, begin: Callable[..., Any], other: Any, graph: Graph, model: ModelProto) -> None:  # noqa: ANN401
        super().__init__(None, other, graph, model)
        self._begin = begin

    def run(self, inputs: Arrays) -> dict[str, npt.NDArray[np.generic]]:
        """The outputs of a first run by name."""
        return self._run(self._begin(), inputs)

    def run_steps(
        self, steps: Sequence[Arrays], carried: Mapping[str, str]
    ) -> list[dict[str, npt.NDArray[np.generic]]]:
        """The outputs of runs one after the other; see `edgec.compiler.frontends.source.KeepsState`."""
        interpreter, outputs = self._begin(), list[dict[str, npt.NDArray[np.generic]]]()
        for inputs in steps:
            taken = {name: outputs[-1][made] for name, made in carried.items()} if outputs else {}
            for name, array in {**inputs, **taken}.items():
                interpreter.set_tensor(self._inputs[name], array)
            interpreter.invoke()
            outputs.append({name: interpreter.get_tensor(index) for name, index in self._outputs.items()})
        return outputs

    def spread(self, inputs: Arrays) -> dict[str, float]:
        """How far LiteRT's own sets of kernels differ in a first run; the second set's is run in `other`."""
        self._interpreter = self._begin()
        return super().spread(inputs)
