"""Sparse tensors become dense ones: initialisers and the values of Constant nodes."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
from onnx import ModelProto, SparseTensorProto, TensorProto, numpy_helper

from edgec.compiler.errors import ModelError
from edgec.compiler.frontends.onnx.graphs import graphs_of, nodes_of

MOST_ELEMENTS = 1 << 28  # of a dense tensor: 1 GB of float32


def densify(model: ModelProto, path: Path) -> None:
    """Replace (in place) every sparse tensor of a model.

    Raises:
        ModelError: one whose indices are out of its shape, or that is too large.
    """
    for graph in graphs_of(model, path):
        graph.initializer.extend(_dense(tensor, path) for tensor in graph.sparse_initializer)
        del graph.sparse_initializer[:]
    for node in nodes_of(model, path):
        for attribute in node.attribute:
            if node.op_type == "Constant" and attribute.name == "sparse_value":
                attribute.t.CopyFrom(_dense(attribute.sparse_tensor, path))
                attribute.ClearField("sparse_tensor")
                attribute.name, attribute.type = "value", attribute.TENSOR


def _dense(sparse: SparseTensorProto, path: Path) -> TensorProto:
    name, shape = sparse.values.name, list(sparse.dims)
    where = f"{path}: the sparse tensor {name!r}"
    if any(size < 0 for size in shape) or math.prod(shape) > MOST_ELEMENTS:
        raise ModelError(f"{where} has the shape {shape}, which is too large or negative")
    values = numpy_helper.to_array(sparse.values)
    places = numpy_helper.to_array(sparse.indices).astype(np.int64)
    if places.shape == (values.size, len(shape)) and len(shape) != 1:
        inside = bool(((places >= 0) & (places < np.asarray(shape))).all())
        flat = np.ravel_multi_index(tuple(places.T), shape) if inside and values.size else places[:, 0]
    else:
        flat = places.reshape(-1)
        inside = flat.size == values.size and bool(((flat >= 0) & (flat < math.prod(shape))).all())
    if not inside:
        raise ModelError(f"{where} has indices that do not fit its shape {shape}")
    dense = np.zeros(math.prod(shape), values.dtype)
    dense[flat] = values
    return numpy_helper.from_array(dense.reshape(shape), name)
