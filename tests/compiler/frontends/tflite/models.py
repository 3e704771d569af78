"""TensorFlow Lite models built from the schema, and their outputs beside LiteRT's.

A model of a test holds many operators that do not depend on each other, so that one compile proves many combinations
of attributes. The shapes of what they return are LiteRT's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import flatbuffers
import numpy as np
import onnxruntime as ort
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter, OpResolverType
from flatbuffers import flexbuffers
from onnx import ModelProto
from onnx.reference import ReferenceEvaluator

import edgec.runtime as rt
from edgec.compiler.frontends.onnx.ort_session import ORT_ERRORS
from edgec.compiler.frontends.onnx.prepare import ports_of
from edgec.compiler.frontends.tflite.load import load
from edgec.compiler.options import CompileOptions
from tests.compiler.onnx_models import build

Array = np.ndarray
_TYPES = {name.lower(): value for name, value in vars(schema.TensorType).items() if not name.startswith("_")}
_KINDS = {name: value for name, value in vars(schema.BuiltinOperator).items() if not name.startswith("_")}
CUSTOM, PLACEHOLDER = 32, 127
WAY = "imported"  # set by the fixture of `conftest.py`


@dataclass
class Graph:
    """One graph of a model under construction."""

    model: Cases
    tensors: list[Any] = field(default_factory=list)
    operators: list[Any] = field(default_factory=list)
    inputs: list[int] = field(default_factory=list)
    outputs: list[int] = field(default_factory=list)

    def tensor(
        self,
        shape: Sequence[int],
        dtype: str = "float32",
        *,
        scale: float | Sequence[float] | None = None,
        zero: int | Sequence[int] = 0,
        axis: int = 0,
        free: Sequence[int] = (),
        name: str = "",
    ) -> int:
        """A tensor without data; `free` are the axes whose sizes a caller may choose."""
        made = schema.TensorT()
        made.shape, made.type = [int(n) for n in shape], _TYPES[dtype]
        made.name = name or f"t{len(self.tensors)}_{len(self.model.graphs)}"
        made.hasRank = True
        if free:
            made.shapeSignature = [-1 if a in free else int(n) for a, n in enumerate(shape)]
        if scale is not None:
            quantisation = schema.QuantizationParametersT()
            quantisation.scale = [float(s) for s in np.reshape(scale, -1)]
            quantisation.zeroPoint = [int(z) for z in np.broadcast_to(zero, len(quantisation.scale))]
            quantisation.quantizedDimension = axis
            made.quantization = quantisation
        self.tensors.append(made)
        return len(self.tensors) - 1

    def constant(self, value: Any, dtype: str = "", **grid: Any) -> int:
        """A tensor with data; of `int4` where `dtype` says so."""
        array = np.asarray(value)
        raw = array.tobytes()
        if dtype == "int4":
            nibbles = np.append(array.reshape(-1), [0] * (array.size % 2)).astype(np.uint8) & 15
            raw = (nibbles[::2] | nibbles[1::2] << 4).tobytes()
        index = self.tensor(array.shape, dtype or str(array.dtype), **grid)
        self.tensors[index].buffer = self.model.buffer(raw)
        return index

    def input(self, value: Array | Sequence[int], dtype: str = "float32", **grid: Any) -> int:
        """An input; in the main graph of the values that the test feeds, in others of a shape."""
        if isinstance(value, np.ndarray):
            index = self.tensor(value.shape, str(value.dtype), **grid)
            self.model.fed[len(self.inputs)] = value
        else:
            index = self.tensor(value, dtype, **grid)
        self.inputs.append(index)
        return index

    def op(
        self,
        kind: str,
        inputs: Sequence[int],
        outputs: str | Sequence[int] = "float32",
        options: Any = None,
        *,
        returned: bool = True,
        custom: Mapping[str, Any] | bytes | None = None,
        version: int = 1,
        **grid: Any,
    ) -> int:
        """Append an operator; returns its first output, which is also one of the graph unless `returned` is false.

        Args:
            outputs: the element type of its one output, or its outputs.
            grid: scale and zero point of its one output.
        """
        made = schema.OperatorT()
        made.opcodeIndex = self.model.code(kind, version)
        made.inputs = [int(i) for i in inputs]
        made.outputs = [self.tensor([], outputs, **grid)] if isinstance(outputs, str) else list(outputs)
        if options is not None:
            name = type(options).__name__.removesuffix("T")
            if hasattr(schema.BuiltinOptions, name):
                made.builtinOptionsType, made.builtinOptions = getattr(schema.BuiltinOptions, name), options
            else:
                made.builtinOptions2Type, made.builtinOptions2 = (
                    getattr(schema.BuiltinOptions2, name),
                    options,
                )
        if custom is not None:
            raw = custom if isinstance(custom, bytes) else bytes(flexbuffers.Dumps(dict(custom)))
            made.customOptions = np.frombuffer(raw, np.uint8)
        self.operators.append(made)
        if returned:
            self.outputs += made.outputs
        return int(made.outputs[0])


class Cases(Graph):
    """A model under construction; itself the main graph."""

    def __init__(self) -> None:
        super().__init__(self)
        self.graphs: list[Graph] = [self]
        self.fed: dict[int, Array] = {}
        self._buffers = [schema.BufferT()]
        self._codes: list[tuple[str, int]] = []

    def graph(self) -> tuple[int, Graph]:
        """Another graph, and its number."""
        self.graphs.append(Graph(self))
        return len(self.graphs) - 1, self.graphs[-1]

    def buffer(self, raw: bytes) -> int:
        """The number of a buffer with these bytes."""
        made = schema.BufferT()
        made.data = np.frombuffer(raw, np.uint8)
        self._buffers.append(made)
        return len(self._buffers) - 1

    def code(self, kind: str, version: int) -> int:
        """The number of an operator's code."""
        if (kind, version) not in self._codes:
            self._codes.append((kind, version))
        return self._codes.index((kind, version))

    def content(self) -> bytes:
        """The file."""
        model = schema.ModelT()
        model.version, model.buffers, model.operatorCodes, model.subgraphs = 3, self._buffers, [], []
        for kind, version in self._codes:
            code = schema.OperatorCodeT()
            number = _KINDS.get(kind, CUSTOM)
            code.builtinCode, code.deprecatedBuiltinCode = number, min(number, PLACEHOLDER)
            code.version = version
            if number == CUSTOM:
                code.customCode = kind
            model.operatorCodes.append(code)
        for graph in self.graphs:
            made = schema.SubGraphT()
            made.tensors, made.operators = graph.tensors, graph.operators
            made.inputs, made.outputs = graph.inputs, graph.outputs
            model.subgraphs.append(made)
        builder = flatbuffers.Builder(4096)
        builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
        return bytes(builder.Output())

    def shaped(self) -> bytes:
        """The file with LiteRT's shapes of all tensors."""
        interpreter = Interpreter(
            model_content=self.content(),
            experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
            experimental_preserve_all_tensors=True,
        )
        interpreter.allocate_tensors()
        for position, index in enumerate(self.inputs):
            interpreter.set_tensor(index, self.fed[position])
        interpreter.invoke()
        for number, graph in enumerate(self.graphs):
            for index, tensor in enumerate(graph.tensors):
                if not tensor.buffer:
                    details = interpreter._get_tensor_details(index, number)
                    tensor.shape = [int(n) for n in np.reshape(details["shape"], -1)]
        return self.content()

    def save(self, folder: Path, *, shaped: bool = True) -> Path:
        """Write the file."""
        path = folder / "cases.tflite"
        path.write_bytes(self.shaped() if shaped else self.content())
        return path

    def inputs_by_name(self) -> dict[str, Array]:
        """What the test feeds."""
        return {self.tensors[index].name: self.fed[k] for k, index in enumerate(self.inputs)}


def assert_same(
    cases: Cases,
    folder: Path,
    *,
    tolerance: float = 2e-6,
    steps: float = 1.0,
    native: bool = True,
    compiled: bool = False,
) -> None:
    """The model gives what LiteRT gives: as ONNX, or compiled (see `conftest.py`).

    Of detections only those are compared that there are: LiteRT leaves the memory behind them as it was.

    Args:
        tolerance: of floats, relative to the largest absolute value of the output (at least 1).
        steps: of quantised outputs; other integers have to be equal.
        native: whether no operator may be left to ONNX Runtime where the model is compiled.
        compiled: compile it in every run.
    """
    inputs, path = cases.inputs_by_name(), cases.save(folder)
    if compiled or WAY == "compiled":
        options = CompileOptions(tune="none", threads=1, fallback=not native)
        imported, artifact = build(path, folder, options)
        original = imported.source.original
        with rt.load(artifact, threads=1) as model:
            got = model.run(inputs)
    else:
        loaded = load(path, CompileOptions())
        states = {state.input: state.initial for state in loaded.variables}
        original, got = loaded.original, _as_onnx(loaded.model, inputs, states)
    assert original is not None
    compare(cases, original.run(inputs), got, tolerance=tolerance, steps=steps)


def _as_onnx(
    model: ModelProto, inputs: Mapping[str, Array], states: Mapping[str, Array | None]
) -> dict[str, Array]:
    """The outputs that ONNX Runtime computes node by node; the standard's evaluator where it lacks an operator."""
    given = dict(inputs)
    for port in ports_of(model.graph.input):
        if port.name in states:
            initial = states[port.name]
            given[port.name] = np.zeros(port.shape, port.dtype) if initial is None else initial
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    names = [value.name for value in model.graph.output]
    try:
        values = ort.InferenceSession(model.SerializeToString(), options).run(names, given)
    except ORT_ERRORS:
        values = ReferenceEvaluator(model).run(names, given)
    return dict(zip(names, values, strict=True))


def compare(
    cases: Cases, expected: Mapping[str, Array], got: Mapping[str, Array], *, tolerance: float, steps: float
) -> None:
    """Assert that outputs agree; the message names each operator whose output does not."""
    tensors = {cases.tensors[index].name: cases.tensors[index] for index in cases.outputs}
    makers = {
        cases.tensors[index].name: f"{cases._codes[op.opcodeIndex][0]} (operator {number})"
        for number, op in enumerate(cases.operators)
        for index in op.outputs
    }
    wrong = []
    for name, wanted in _of_detections(cases, expected).items():
        value = got[name]
        assert value.dtype == wanted.dtype, makers[name]
        assert value.shape == wanted.shape, (makers[name], value.shape, wanted.shape)
        error = _error(wanted, value)
        quantised = tensors[name].quantization is not None
        floating = wanted.dtype.kind in "fc"
        largest = float(np.abs(wanted[np.isfinite(wanted)]).max(initial=1.0)) if floating else 1.0
        limit = tolerance * largest if floating else steps if quantised else 0.0
        if not error <= limit:
            wrong.append(f"{makers[name]}: {error:.3g} beside {limit:.3g}")
    assert not wrong, "\n".join(wrong)


def _of_detections(cases: Cases, expected: Mapping[str, Array]) -> dict[str, Array]:
    """The outputs with zeros behind the last detection."""
    cleaned = dict(expected)
    for op in cases.operators:
        if cases._codes[op.opcodeIndex][0] == "TFLite_Detection_PostProcess":
            names = [cases.tensors[index].name for index in op.outputs]
            each = flexbuffers.Loads(bytes(op.customOptions)).get("max_classes_per_detection", 1)
            count = int(expected[names[3]][0]) * each
            for name in names[:3]:
                cleaned[name] = expected[name].copy()
                cleaned[name][:, count:] = 0
    return cleaned


def _error(wanted: Array, value: Array) -> float:
    a, b = wanted.astype(np.complex128), value.astype(np.complex128)
    same = (wanted == value) | (np.isnan(a) & np.isnan(b))
    with np.errstate(invalid="ignore"):
        difference = np.where(same, 0, np.abs(a - b))
    return float(np.where(np.isnan(difference), np.inf, difference).max(initial=0.0))
