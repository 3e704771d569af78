"""Networks of the zoo for another batch, and written as plain data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from edgec.benchmarks.gpu.graph_data import Network, Operation


def with_batch(model: onnx.ModelProto, batch: int) -> onnx.ModelProto:
    """A network of the zoo, which is made for a batch of one, for another batch.

    Shapes that begin with one begin with the batch then, and a constant that is concatenated is repeated. Whether the
    result computes the same has to be checked: see `prepare`.
    """
    made = onnx.ModelProto()
    made.CopyFrom(model)
    graph = made.graph
    for value in (*graph.input, *graph.output):
        if value.type.tensor_type.shape.dim[0].dim_value == 1:
            value.type.tensor_type.shape.dim[0].dim_value = batch
    del graph.value_info[:]
    stored = {tensor.name: tensor for tensor in graph.initializer}
    changed: dict[str, NDArray[Any]] = {}
    for node in graph.node:
        if node.op_type == "Reshape" and node.input[1] in stored:
            shape = numpy_helper.to_array(stored[node.input[1]]).copy()
            if shape.size and shape[0] == 1:
                shape[0] = batch
                changed[node.input[1]] = shape
        elif node.op_type == "Concat":
            for name in node.input:
                if name in stored and stored[name].dims and stored[name].dims[0] == 1:
                    changed[name] = np.repeat(numpy_helper.to_array(stored[name]), batch, axis=0)
    for name, array in changed.items():
        stored[name].CopyFrom(numpy_helper.from_array(array, name))
    return made


def describe(model: onnx.ModelProto, file: Path, constants: Path) -> None:
    """Write a network as data: its graph as JSON, its constants as `.npz`."""
    graph = model.graph
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    operations = []
    for node in graph.node:
        attributes = {one.name: _plain(helper.get_attribute_value(one)) for one in node.attribute}
        operations.append(Operation(node.op_type, tuple(node.input), tuple(node.output), attributes))
    inputs = tuple(one.name for one in graph.input if one.name not in stored)
    network = Network(inputs, tuple(one.name for one in graph.output), tuple(operations))
    file.write_bytes(msgspec.json.encode(network))
    np.savez(constants, **stored)


def _plain(value: Any) -> Any:  # noqa: ANN401 - of ONNX
    if isinstance(value, bytes):
        return value.decode()
    if isinstance(value, onnx.TensorProto):
        return numpy_helper.to_array(value).tolist()
    return list(value) if not isinstance(value, int | float | str) else value
