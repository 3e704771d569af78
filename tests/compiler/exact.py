"""What an ONNX model means, computed so that no sum of its integer products is rounded or saturates.

ONNX Runtime is no judge of models with int8 products: on x86-64 without VNNI its integer kernels saturate. Here the
standard's evaluator runs the model with 64-bit floats in place of 32-bit ones. They hold every sum of 8-bit products
exactly, and a value lands on its own side of a rounding edge on any CPU.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from onnx import AttributeProto, GraphProto, ModelProto, TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun

FLOAT, DOUBLE = TensorProto.FLOAT, TensorProto.DOUBLE


def exact_outputs(model: ModelProto, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The outputs by name, in the model's own types."""
    names = [value.name for value in model.graph.output]
    types = [value.type.tensor_type.elem_type for value in model.graph.output]
    given = {k: x.astype(np.float64) if x.dtype == np.float32 else x for k, x in inputs.items()}
    evaluator = ReferenceEvaluator(in_double(model), new_ops=[DequantizeLinear, QuantizeLinear])
    values = evaluator.run(names, given)
    return {
        name: np.asarray(value).astype(helper.tensor_dtype_to_np_dtype(kind))
        for name, value, kind in zip(names, values, types, strict=True)
    }


def in_double(model: ModelProto) -> ModelProto:
    """The model with float64 wherever it has float32."""
    wide = ModelProto()
    wide.CopyFrom(model)
    _widen(wide.graph)
    return wide


def _widen(graph: GraphProto) -> None:
    for tensor in graph.initializer:
        _widen_tensor(tensor)
    for value in (*graph.input, *graph.output, *graph.value_info):
        if value.type.tensor_type.elem_type == FLOAT:
            value.type.tensor_type.elem_type = DOUBLE
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == AttributeProto.TENSOR:
                _widen_tensor(attribute.t)
            elif attribute.type == AttributeProto.GRAPH:
                _widen(attribute.g)
            elif node.op_type == "Cast" and attribute.name == "to" and attribute.i == FLOAT:
                attribute.i = DOUBLE


def _widen_tensor(tensor: TensorProto) -> None:
    if tensor.data_type == FLOAT:
        wide = numpy_helper.to_array(tensor).astype(np.float64)
        tensor.CopyFrom(numpy_helper.from_array(wide, tensor.name))


def _along(parameter: np.ndarray, x: np.ndarray, axis: int) -> np.ndarray:
    """A scale or zero point in a shape that broadcasts: one for all, or one for each slice along `axis`."""
    shape = [-1 if i == axis % x.ndim else 1 for i in range(x.ndim)] if parameter.ndim and x.ndim else []
    return parameter.astype(np.float64).reshape(shape)


class DequantizeLinear(OpRun):
    """The evaluator's own lacks operator sets below 19, and scales in float32."""

    def _run(self, x, scale, zero_point=None, axis=1, **_):
        zero = 0.0 if zero_point is None else _along(zero_point, x, axis)
        return ((x.astype(np.float64) - zero) * _along(scale, x, axis),)


class QuantizeLinear(OpRun):
    """To 8, 16 or 32 bits, rounding half to even."""

    def _run(self, x, scale, zero_point=None, axis=1, **_):
        dtype = np.dtype(np.uint8) if zero_point is None else zero_point.dtype
        zero = 0.0 if zero_point is None else _along(zero_point, x, axis)
        limits = np.iinfo(dtype)
        steps = np.rint(x / _along(scale, x, axis)) + zero
        return (np.clip(steps, limits.min, limits.max).astype(dtype),)
