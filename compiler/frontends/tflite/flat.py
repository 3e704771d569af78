"""Read a TensorFlow Lite file (a flatbuffer) into plain objects, checking that it is consistent."""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgec.compiler.errors import ModelError
from edgec.compiler.frontends.interface import require

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


@dataclass(frozen=True)
class Operator:
    """An operator; `inputs` are indices of tensors, -1 where one is left out.

    `options` is the schema's object for its kind, `custom_options` the bytes of a custom operator.
    """

    index: int
    kind: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    options: Any
    custom_options: bytes


@dataclass(frozen=True)
class Graph:
    """The main graph of a file; its inputs and outputs also by the names of its first signature, if it has one."""

    tensors: tuple[Tensor, ...]
    operators: tuple[Operator, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    signature_inputs: Mapping[str, int] = field(default_factory=dict)
    signature_outputs: Mapping[str, int] = field(default_factory=dict)


def read(content: bytes, path: Path) -> Graph:
    """The main graph of a TensorFlow Lite file.

    Raises:
        ModelError: damaged, or with tensors that do not fit their data.
        ToolMissing: ai-edge-litert is not installed.
    """
    schema = require("ai_edge_litert.schema_py_generated", EXTRA, path)
    if content[4:8] != b"TFL3":
        raise ModelError(f"{path}: is not a TensorFlow Lite model, or predates the current format")
    try:
        model = schema.ModelT.InitFromPackedBuf(content, 0)
        return _graph(model, schema, path)
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


def _graph(model: Any, schema: Any, path: Path) -> Graph:  # noqa: ANN401 - objects of the generated schema
    if not model.subgraphs:
        raise ModelError(f"{path}: holds no graph")
    graph = model.subgraphs[0]
    kinds = {v: k for k, v in vars(schema.BuiltinOperator).items() if not k.startswith("_")}
    types = {v: k for k, v in vars(schema.TensorType).items() if not k.startswith("_")}
    tensors = tuple(_tensor(i, t, model.buffers, types, path) for i, t in enumerate(graph.tensors))
    operators = []
    for index, op in enumerate(graph.operators or []):
        code = model.operatorCodes[op.opcodeIndex]
        number = max(code.deprecatedBuiltinCode, code.builtinCode)
        kind = _text(code.customCode) if number == CUSTOM else kinds.get(number, f"operator {number}")
        inputs, outputs = _indices(op.inputs, len(tensors)), _indices(op.outputs, len(tensors))
        custom = bytes(bytearray(op.customOptions)) if op.customOptions is not None else b""
        operators.append(Operator(index, kind, inputs, outputs, op.builtinOptions, custom))
    return Graph(
        tensors,
        tuple(operators),
        _indices(graph.inputs, len(tensors)),
        _indices(graph.outputs, len(tensors)),
        *_signature(model.signatureDefs, len(tensors)),
    )


def _signature(stored: Any, count: int) -> tuple[dict[str, int], dict[str, int]]:  # noqa: ANN401
    first = stored[0] if stored else None
    inputs, outputs = (
        {_text(entry.name): _indices([entry.tensorIndex], count)[0] for entry in entries or []}
        for entries in ((first.inputs, first.outputs) if first else ((), ()))
    )
    return inputs, outputs


def _indices(values: Sequence[int] | None, count: int) -> tuple[int, ...]:
    indices = tuple(int(v) for v in values) if values is not None else ()
    if any(not -1 <= i < count for i in indices):
        raise IndexError(f"a tensor of number {max(indices)} does not exist")
    return indices


def _text(value: bytes | str | None) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value or "")


def _tensor(index: int, tensor: Any, buffers: Any, types: dict[int, str], path: Path) -> Tensor:  # noqa: ANN401
    name = _text(tensor.name) or f"tensor_{index}"
    shape = tuple(int(d) for d in tensor.shape) if tensor.shape is not None else ()
    if any(d < 0 for d in shape) or math.prod(shape) > MAX_ELEMENTS:
        raise ModelError(f"{path}: the tensor {name!r} has the impossible shape {list(shape)}")
    kind = types.get(tensor.type, f"type {tensor.type}")
    dtype = _DTYPES.get(kind, "")
    raw = buffers[tensor.buffer].data if 0 < tensor.buffer < len(buffers) else None
    data = None
    if raw is not None and len(raw) and dtype:
        flat = np.frombuffer(bytes(bytearray(raw)), dtype=np.dtype(dtype).newbyteorder("<"))
        if flat.size != math.prod(shape):
            raise ModelError(
                f"{path}: the tensor {name!r} has {flat.size} values for the shape {list(shape)}"
            )
        data = flat.astype(dtype).reshape(shape)
    if tensor.sparsity is not None:
        raise ModelError(
            f"{path}: the tensor {name!r} is stored sparsely; convert the model without sparsity"
        )
    quantisation = _quantisation(tensor.quantization, shape, name, path)
    return Tensor(index, name, shape, dtype or kind, data, quantisation, bool(tensor.isVariable))


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
