"""Constants, and operators whose results follow from static shapes: known when the model is imported."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

from edgec.compiler.frontends.relax.builder import Expr, constant
from edgec.compiler.frontends.relax.converters.registry import (
    CannotConvert,
    Node,
    converts,
    shape_of,
)


@converts("Shape")
def _shape(node: Node) -> Expr:
    shape = list(node.shape(0))
    return constant(shape[node.attrs.get("start", 0) : node.attrs.get("end", None)], "int64")


@converts("Size")
def _size(node: Node) -> Expr:
    return constant(int(np.prod(node.shape(0))), "int64")


@converts("Constant")
def _constant(node: Node) -> Expr:
    attrs = node.attrs
    if "value" in attrs and attrs["value"].data_type != TensorProto.STRING:
        return constant(numpy_helper.to_array(attrs["value"]))
    for name, dtype in (("value_float", "float32"), ("value_int", "int64")):
        for given in (name, f"{name}s"):
            if given in attrs:
                return constant(attrs[given], dtype)
    raise CannotConvert("constants that are sparse or texts are not compiled")


@converts("EyeLike")
def _eye_like(node: Node) -> Expr:
    rows, columns = shape_of(node.input(0))
    kind = node.attrs.get("dtype")
    dtype = str(onnx.helper.tensor_dtype_to_np_dtype(int(kind))) if kind else node.dtype(0)
    return constant(np.eye(rows, columns, k=int(node.attrs.get("k", 0)), dtype=dtype))
