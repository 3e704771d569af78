"""The shapes of all values, inferred from the inputs', and a limit to their sizes."""

from __future__ import annotations

import onnx
from onnx import ModelProto, TensorProto

from edgec.compiler.errors import ModelError

LARGE_CONSTANT = 1 << 16  # bytes
MAX_TENSOR_BYTES = 8 << 30  # no value of a model for the edge is larger; hostile ones are


def infer_shapes(model: ModelProto) -> ModelProto:
    """The model with the shapes of all its values that follow from the inputs.

    Without propagation of data: that computes with whatever sizes a hostile model names, however large.
    Constants are folded by then anyway. Nor do large constants travel to the library and back: shapes follow from
    those with a number for each axis at most.
    """
    light = ModelProto()
    light.CopyFrom(model)
    large = [i for i, tensor in enumerate(light.graph.initializer) if tensor.ByteSize() > LARGE_CONSTANT]
    for i in large:
        tensor = light.graph.initializer[i]
        tensor.CopyFrom(TensorProto(name=tensor.name, dims=tensor.dims, data_type=tensor.data_type))
    inferred = onnx.shape_inference.infer_shapes(light, check_type=False, strict_mode=False, data_prop=False)
    for i in large:
        inferred.graph.initializer[i].CopyFrom(model.graph.initializer[i])
    return inferred


def check_sizes(model: ModelProto) -> None:
    """Refuse a model in which some value's inferred shape is negative or larger than any real one.

    This runs before anything computes with the model: a few bytes of ONNX can ask for terabytes.

    Raises:
        ModelError: such a value, or shapes that contradict each other.
    """
    for value in model.graph.value_info:
        tensor = value.type.tensor_type
        if not tensor.HasField("shape") or tensor.elem_type in (TensorProto.UNDEFINED, TensorProto.STRING):
            continue
        dims = [d.dim_value for d in tensor.shape.dim if d.HasField("dim_value")]
        if any(d < 0 for d in dims):
            raise ModelError(f"the value {value.name!r} has a negative size: {dims}")
        if (
            len(dims) == len(tensor.shape.dim)
            and tensor_bytes(tensor.elem_type, tuple(dims)) > MAX_TENSOR_BYTES
        ):
            raise ModelError(
                f"the value {value.name!r} of shape {dims} is larger than {MAX_TENSOR_BYTES >> 30} GiB; "
                "the model is damaged or hostile"
            )


def tensor_bytes(elem_type: int, shape: tuple[int, ...]) -> int:
    """The bytes that a tensor takes."""
    size = int(onnx.helper.tensor_dtype_to_np_dtype(elem_type).itemsize)
    for length in shape:
        size *= length
    return size
