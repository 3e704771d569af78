"""Read a TensorFlow Lite file (a flatbuffer) into plain objects, checking that it is consistent."""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgec.compiler.errors import ModelError
from edgec.compiler.frontends.interface import require
from edgec.compiler.frontends.tflite.stored_values import Values, dense, values_of

EXTRA = "tflite"
CUSTOM = 32
MAX_ELEMENTS = 1 << 31

_DTYPES = {
    "FLOAT32": "float32",
    "FLOAT16": "float16",
    "FLOAT64": "float64",
    "INT8": "int8",
    "INT16": "int16",
    "INT32": "int32",
    "INT64": "int64",
    "UINT8": "uint8",
    "UINT16": "uint16",
    "UINT32": "uint32",
    "UINT64": "uint64",
    "BOOL": "bool",
    "COMPLEX64": "complex64",
    "INT4": "int8",  # constants of narrow types are widened as they are read
    "INT2": "int8",
    "UINT4": "uint8",
    "BFLOAT16": "float32",
}


@dataclass(frozen=True)
class Quantisation:
    """`real = scale · (stored − zero point)`; one of each, or one per slice of `axis`."""

    scale: npt.NDArray[np.float32]
    zero_point: npt.NDArray[np.int64]
    axis: int

    @property
    def per_tensor(self) -> bool:
        """Whether the whole tensor has one scale."""
        return len(self.scale) == 1


@dataclass(frozen=True)
class Tensor:
    """A tensor of the file; `data` where it is constant, `quantisation` where it represents real numbers."""

    index: int
    name: str
    shape: tuple[int, ...]
    dtype: str
    data: npt.NDArray[np.generic] | None
    quantisation: Quantisation | None
    variable: bool
    free: tuple[int, ...] = ()  # the axes whose sizes a caller may choose


@dataclass(frozen=True)
class Operator:
    """An operator; `inputs` are indices of tensors, -1 where one is left out.

    `options` is the schema's object for its kind, `custom_options` the bytes of a custom operator; `intermediates` are
    tensors that only have grids: of what a layer computes inside.
    """

    index: int
    kind: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    options: Any
    custom_options: bytes
    intermediates: tuple[int, ...] = ()


@dataclass(frozen=True)
class Graph:
    """A graph of a file; the inputs and outputs of the main graph also by the names of its first signature, if any."""

    tensors: tuple[Tensor, ...]
    operators: tuple[Operator, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    signature_inputs: Mapping[str, int] = field(default_factory=dict)
    signature_outputs: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Model:
    """The graphs of a file: the main one, and those that its operators call."""

    graphs: tuple[Graph, ...]

    @property
    def main(self) -> Graph:
        """The graph that an inference runs."""
        return self.graphs[0]


def read(content: bytes, path: Path) -> Model:
    """The graphs of a TensorFlow Lite file.

    Raises:
        ModelError: damaged, or with tensors that do not fit their data.
        ToolMissing: ai-edge-litert is not installed.
    """
    schema = require("ai_edge_litert.schema_py_generated", EXTRA, path)
    if content[4:8] != b"TFL3":
        raise ModelError(f"{path}: is not a TensorFlow Lite model, or predates the current format")
    try:
        model = schema.ModelT.InitFromPackedBuf(content, 0)
        return _model(model, schema, content, path)
    except (
        struct.error,
        IndexError,
        TypeError,
        ValueError,
        AttributeError,
        OverflowError,
        MemoryError,
    ) as error:
        raise ModelError(
            f"{path}: is damaged or cut short; convert or download it again ({error})"
        ) from error


def _model(model: Any, schema: Any, content: bytes, path: Path) -> Model:  # noqa: ANN401 - objects of the generated schema
    if not model.subgraphs:
        raise ModelError(f"{path}: holds no graph")
    kinds = _numbered(schema.BuiltinOperator)
    codes = []
    for code in model.operatorCodes or []:
        number = max(code.deprecatedBuiltinCode, code.builtinCode)
        codes.append(_text(code.customCode) if number == CUSTOM else kinds.get(number, f"operator {number}"))
    types, names = _numbered(schema.TensorType), _signature(model.signatureDefs)
    buffers = _Buffers(model.buffers or [], content)
    graphs = []
    for number, graph in enumerate(model.subgraphs):
        tensors = tuple(_tensor(i, t, buffers, types, path) for i, t in enumerate(graph.tensors or []))
        graphs.append(_graph(graph, tensors, codes, names if number == 0 else ({}, {})))
    return Model(tuple(graphs))


def _numbered(enumeration: type) -> dict[int, str]:
    return {number: name for name, number in vars(enumeration).items() if not name.startswith("_")}


def _graph(
    graph: Any,  # noqa: ANN401
    tensors: tuple[Tensor, ...],
    codes: Sequence[str],
    names: tuple[dict[str, int], dict[str, int]],
) -> Graph:
    count = len(tensors)
    operators = []
    for index, op in enumerate(graph.operators or []):
        custom = bytes(bytearray(op.customOptions)) if op.customOptions is not None else b""
        options = op.builtinOptions if op.builtinOptions is not None else op.builtinOptions2
        ends = _indices(op.inputs, count), _indices(op.outputs, count)
        inner = _indices(op.intermediates, count)
        operators.append(Operator(index, codes[op.opcodeIndex], *ends, options, custom, inner))
    for named in names:
        _indices(list(named.values()), count, least=0)
    inputs, outputs = _indices(graph.inputs, count, least=0), _indices(graph.outputs, count, least=0)
    made = {index for op in operators for index in op.outputs} | set(inputs)
    tensors = tuple(t if t.index in made else _with_empty_data(t) for t in tensors)
    return Graph(tensors, tuple(operators), inputs, outputs, *names)


def _with_empty_data(tensor: Tensor) -> Tensor:
    """A constant without elements, such as the shape of a scalar, has no bytes in the file."""
    if tensor.data is not None or 0 not in tensor.shape or tensor.dtype not in _DTYPES.values():
        return tensor
    return replace(tensor, data=np.zeros(tensor.shape, tensor.dtype))


class _Buffers:
    """The bytes of constant tensors; large ones stand behind the flatbuffer."""

    def __init__(self, buffers: Sequence[Any], content: bytes) -> None:
        self._buffers, self._content = buffers, content

    def get(self, number: int) -> bytes:
        """The bytes of a buffer, empty where there is none."""
        if not 0 < number < len(self._buffers):
            return b""
        buffer = self._buffers[number]
        if buffer.offset > 1:
            if buffer.offset + buffer.size > len(self._content):
                raise ValueError(f"the buffer {number} ends behind the file")
            return self._content[buffer.offset : buffer.offset + buffer.size]
        return bytes(bytearray(buffer.data)) if buffer.data is not None else b""


def _signature(stored: Any) -> tuple[dict[str, int], dict[str, int]]:  # noqa: ANN401
    first = stored[0] if stored else None
    inputs, outputs = (
        {_text(entry.name): int(entry.tensorIndex) for entry in entries or []}
        for entries in ((first.inputs, first.outputs) if first else ((), ()))
    )
    return inputs, outputs


def _indices(values: Sequence[int] | None, count: int, least: int = -1) -> tuple[int, ...]:
    """Numbers of tensors; an operator leaves out one by the number -1, a graph none."""
    indices = tuple(int(v) for v in values) if values is not None else ()
    wrong = next((i for i in indices if not least <= i < count), None)
    if wrong is not None:
        raise IndexError(f"a tensor of number {wrong} does not exist")
    return indices


def _text(value: bytes | str | None) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value or "")


def _tensor(index: int, tensor: Any, buffers: _Buffers, types: dict[int, str], path: Path) -> Tensor:  # noqa: ANN401
    name = _text(tensor.name) or f"tensor_{index}"
    shape = tuple(int(d) for d in tensor.shape) if tensor.shape is not None else ()
    if any(d < 0 for d in shape) or math.prod(shape) > MAX_ELEMENTS:
        raise ModelError(f"{path}: the tensor {name!r} has the impossible shape {list(shape)}")
    kind = types.get(tensor.type, f"type {tensor.type}")
    dtype = _DTYPES.get(kind, "")
    raw = buffers.get(tensor.buffer) if dtype else b""
    data = None
    if raw:
        flat = values_of(raw, kind, dtype, None if tensor.sparsity is not None else math.prod(shape))
        if tensor.sparsity is not None:
            flat = dense(flat, tensor.sparsity, shape).reshape(-1)
        if flat.size != math.prod(shape):
            raise ModelError(
                f"{path}: the tensor {name!r} has {flat.size} values for the shape {list(shape)}"
            )
        data = flat.reshape(shape)
    elif tensor.sparsity is not None:
        raise ModelError(f"{path}: the tensor {name!r} is stored sparsely, but it is not constant")
    quantisation = _quantisation(tensor.quantization, shape, name, path)
    _check_grid(quantisation, data, dtype, f"{path}: the tensor {name!r}")
    free = _free_axes(tensor.shapeSignature)
    return Tensor(index, name, shape, dtype or kind, data, quantisation, bool(tensor.isVariable), free)


def _free_axes(signature: Sequence[int] | None) -> tuple[int, ...]:
    return () if signature is None else tuple(axis for axis, size in enumerate(signature) if size < 0)


def _check_grid(quantisation: Quantisation | None, data: Values | None, dtype: str, told: str) -> None:
    """Check that zero points are of the tensor's type, and that what is not zero has a scale."""
    if quantisation is None or dtype not in ("int8", "uint8", "int16"):
        return
    limits, zero = np.iinfo(dtype), quantisation.zero_point
    if zero.min() < limits.min or zero.max() > limits.max:
        wrong = zero.min() if zero.min() < limits.min else zero.max()
        raise ModelError(
            f"{told} of type {dtype} has the zero point {wrong}, which is outside the type; "
            "convert the model again with a current converter"
        )
    if quantisation.per_tensor and quantisation.scale[0] == 0 and (data is None or (data != zero[0]).any()):
        raise ModelError(
            f"{told} has a scale of 0, so that all it stores is zero; "
            "quantise the model again with inputs like the real ones"
        )


def _quantisation(stored: Any, shape: tuple[int, ...], name: str, path: Path) -> Quantisation | None:  # noqa: ANN401
    if stored is None or stored.scale is None or not len(stored.scale):
        return None
    scale = np.asarray(stored.scale, np.float32).copy()
    zero = np.zeros(len(scale), np.int64)
    if stored.zeroPoint is not None and len(stored.zeroPoint):
        zero = np.broadcast_to(np.asarray(stored.zeroPoint, np.int64), (len(scale),)).copy()
    axis = int(stored.quantizedDimension)
    if len(scale) > 1 and (not 0 <= axis < len(shape) or shape[axis] != len(scale)):
        raise ModelError(
            f"{path}: the tensor {name!r} of shape {list(shape)} has {len(scale)} scales along axis {axis}, "
            "which do not fit it; convert the model again with a current converter"
        )
    if not np.isfinite(scale).all() or (scale < 0).any():
        raise ModelError(f"{path}: the tensor {name!r} has a scale that is not a positive number")
    return Quantisation(scale, zero, axis)
