"""Types of values in Relax terms, and attributes as Python values."""

from __future__ import annotations

from typing import Any

import onnx
from onnx import AttributeProto, ValueInfoProto, helper
from tvm import relax

from edgec.compiler.frontends.relax import fallback
from edgec.compiler.frontends.relax.builder import Expr
from edgec.compiler.frontends.relax.converters.registry import (
    CannotConvert,
    shape_of,
)


def attribute_value(attribute: AttributeProto) -> Any:  # noqa: ANN401 - as many types as attributes have
    """An attribute as Python values: text as `str`, lists as lists, tensors and graphs as they are."""
    value = onnx.helper.get_attribute_value(attribute)
    if attribute.type == AttributeProto.STRING:
        return value.decode("utf-8", "replace")
    if attribute.type == AttributeProto.STRINGS:
        return [item.decode("utf-8", "replace") for item in value]
    if attribute.type in (AttributeProto.INTS, AttributeProto.FLOATS):
        return list(value)
    return value


def static_type(value: ValueInfoProto | None) -> Expr | None:
    """The Relax type of a value that is declared as a tensor of static shape, else None."""
    if not fallback.is_tensor(value) or value is None:
        return None
    tensor = value.type.tensor_type
    if not tensor.HasField("shape") or not all(d.HasField("dim_value") for d in tensor.shape.dim):
        return None
    return relax.TensorType([d.dim_value for d in tensor.shape.dim], _dtype_name(tensor.elem_type))


def loose_type(value: ValueInfoProto | None) -> Expr:
    """The Relax type of a tensor whose shape is known only at run time.

    Raises:
        CannotConvert: the value is not a tensor.
    """
    if not fallback.is_tensor(value) or value is None:
        raise CannotConvert("an output of the part that ONNX Runtime runs is not a tensor")
    return relax.TensorType(dtype=_dtype_name(value.type.tensor_type.elem_type), ndim=-1)


def _dtype_name(elem_type: int) -> str:
    return str(helper.tensor_dtype_to_np_dtype(elem_type))


def shape_or_none(value: Expr) -> tuple[int, ...] | None:
    """The static shape of a value, or None."""
    try:
        return shape_of(value)
    except CannotConvert:
        return None
