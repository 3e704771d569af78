"""Make a model's sizes and stored weights smaller; whether it still fails is for the caller to try."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from edgec.compiler.verify.inputs import Arrays

PATTERN = 61  # stored elements of a patterned weight; a prime, so that rows differ
MADE = "pattern of"  # how the nodes are named that repeat a pattern
LARGE = 256  # bytes of a weight that is worth a pattern
KINDS = frozenset(
    {TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE, TensorProto.INT8, TensorProto.UINT8}
)


def sizes_of(model: ModelProto) -> list[int]:
    """The sizes of axes in a model, those first that would save most."""
    elements: Counter[int] = Counter()
    for tensor in model.graph.initializer:
        for size in tensor.dims:
            elements[size] += math.prod(tensor.dims)
    for value in model.graph.input:
        dims = [dim.dim_value for dim in value.type.tensor_type.shape.dim]
        for size in dims:
            elements[size] += math.prod(dims)
    return [size for size, _ in elements.most_common() if size > 1]


def smaller_sizes(size: int) -> Iterator[int]:
    """Sizes to try in the place of one, smallest first."""
    yield from dict.fromkeys(n for n in (1, 2, 3, 4, 8, 16, size // 4, size // 2) if 0 < n < size)


def resized(model: ModelProto, inputs: Arrays, old: int, new: int) -> tuple[ModelProto, Arrays]:
    """The model and its inputs with every axis of size `old` cut to `new`, and shapes that name it changed."""
    changed = ModelProto()
    changed.CopyFrom(model)
    graph = changed.graph
    for tensor in graph.initializer:
        array = numpy_helper.to_array(tensor)
        if array.dtype == np.int64 and array.ndim == 1 and array.size <= 8:  # as likely a shape as values
            array = np.where(array == old, new, array)
        tensor.CopyFrom(numpy_helper.from_array(_cut(array, old, new), tensor.name))
    for value in graph.input:
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_value == old:
                dim.dim_value = new
    for value in graph.output:
        value.type.tensor_type.ClearField("shape")
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.name in ("hidden_size", "num_heads", "group") and attribute.i == old:
                attribute.i = new
    del graph.value_info[:]
    return changed, {name: _cut(array, old, new) for name, array in inputs.items()}


def _cut(array: np.ndarray, old: int, new: int) -> np.ndarray:
    places = tuple(slice(new) if size == old else slice(None) for size in array.shape)
    return np.ascontiguousarray(array[places]).reshape([new if size == old else size for size in array.shape])


def large_weights(model: ModelProto) -> list[str]:
    """Names of the weights that are worth a pattern, largest first."""
    found = [
        (math.prod(tensor.dims), tensor.name)
        for tensor in model.graph.initializer
        if tensor.data_type in KINDS and tensor.ByteSize() > LARGE and math.prod(tensor.dims) > PATTERN
    ]
    return [name for _, name in sorted(found, reverse=True)]


def patterned(model: ModelProto, names: Iterable[str]) -> ModelProto:
    """The model with some weights as a short pattern that is repeated."""
    changed = ModelProto()
    changed.CopyFrom(model)
    graph, chosen = changed.graph, set(names)
    kept: list[TensorProto] = []
    made: list[NodeProto] = []
    for tensor in graph.initializer:
        if tensor.name not in chosen:
            kept.append(TensorProto.FromString(tensor.SerializeToString()))
            continue
        array = numpy_helper.to_array(tensor)
        count, base = array.size, tensor.name
        places = np.linspace(0, count - 1, PATTERN).astype(np.int64)
        stored = {
            "pattern": array.reshape(-1)[places],
            "times": np.array([-(-count // PATTERN)]),
            "begin": np.array([0]),
            "end": np.array([count]),
            "shape": np.array(array.shape, np.int64),
        }
        kept += [numpy_helper.from_array(value, f"{base}/{part}") for part, value in stored.items()]
        made += [
            helper.make_node("Tile", [f"{base}/pattern", f"{base}/times"], [f"{base}/tiled"]),
            helper.make_node("Slice", [f"{base}/tiled", f"{base}/begin", f"{base}/end"], [f"{base}/flat"]),
            helper.make_node("Reshape", [f"{base}/flat", f"{base}/shape"], [base]),
        ]
        for number, node in enumerate(made[-3:]):
            node.name = f"{MADE} {base}/{number}"
    nodes = [*made, *(NodeProto.FromString(node.SerializeToString()) for node in graph.node)]
    del graph.initializer[:]
    del graph.node[:]
    graph.initializer.extend(kept)
    graph.node.extend(nodes)
    return changed


def simplified(inputs: Arrays) -> Arrays:
    """Inputs whose values repeat, which compress well; small ones stay."""
    made: Arrays = {}
    for name, array in inputs.items():
        flat = array.reshape(-1)
        few = flat[np.linspace(0, flat.size - 1, PATTERN).astype(np.int64)] if flat.size > PATTERN else flat
        made[name] = np.resize(few, array.shape).astype(array.dtype)
    return made
