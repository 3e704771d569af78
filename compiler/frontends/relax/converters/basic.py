"""Converters where TVM's own are missing, wrong, or slower than need be once everything is static."""

from __future__ import annotations

import numpy as np
from onnx import numpy_helper
from tvm import relax

from edgec.compiler.frontends.relax.builder import Expr, constant
from edgec.compiler.frontends.relax.converters.registry import Node, Refusal, converts


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
    if "value" in attrs:
        return constant(numpy_helper.to_array(attrs["value"]))
    for name, dtype in (("value_float", "float32"), ("value_int", "int64")):
        for given in (name, f"{name}s"):
            if given in attrs:
                return constant(attrs[given], dtype)
    raise Refusal("constants that are sparse or texts are not compiled")


@converts("OptionalHasElement")
def _optional_has_element(node: Node) -> Expr:
    return constant(node.has(0), "bool")


@converts("Identity", "Dropout", "OptionalGetElement")
def _identity(node: Node) -> Expr | list[Expr]:
    x = node.input(0)
    if node.op_type == "Dropout" and len(node.outputs) > 1 and node.outputs[1]:
        return [x, relax.op.full(node.shape(0), constant(True, "bool"), "bool")]
    return x
