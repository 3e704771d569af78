"""The shapes of all values, inferred from the inputs', and a limit to their sizes."""

from __future__ import annotations

import onnx
from onnx import ModelProto, TensorProto

from edgec.compiler.errors import ModelError

LARGE_CONSTANT = 1 << 16  # bytes
MAX_TENSOR_BYTES = 8 << 30  # larger than any value of a real model for the edge
MAX_INPUT_BYTES = 1 << 30  # and than any input: several are made up to compare models


def infer_shapes(model: ModelProto) -> ModelProto:
    """The model with the shapes of all its values that follow from the inputs.

    Data propagation is off, as it would compute with any size that a hostile model declares; constants are folded by
    then anyway. Large constants are left out, to save copying them: shapes only depend on constants with at most one
    number for each axis.
    """
    light = ModelProto()
    light.CopyFrom(model)
    for (
        node
    ) in light.graph.node:  # the inference takes its absence for 0, the standard and every runtime for 1
        if node.op_type == "STFT" and not any(a.name == "onesided" for a in node.attribute):
            node.attribute.append(onnx.helper.make_attribute("onesided", 1))
    large = [i for i, tensor in enumerate(light.graph.initializer) if tensor.ByteSize() > LARGE_CONSTANT]
    for i in large:
        tensor = light.graph.initializer[i]
        tensor.CopyFrom(TensorProto(name=tensor.name, dims=tensor.dims, data_type=tensor.data_type))
    inferred = onnx.shape_inference.infer_shapes(light, check_type=False, strict_mode=False, data_prop=False)
    for i in large:
        inferred.graph.initializer[i].CopyFrom(model.graph.initializer[i])
    return inferred


def check_sizes(model: ModelProto) -> None:
    """Reject a model with an inferred shape that is negative, or larger than that of any real value.

    This runs before anything computes with the model: a few bytes of ONNX can request terabytes.

    Raises:
        ModelError: such a value, or shapes that contradict each other.
    """
    inputs = {value.name for value in model.graph.input}
    for value in (*model.graph.input, *model.graph.value_info):
        limit = MAX_INPUT_BYTES if value.name in inputs else MAX_TENSOR_BYTES
        tensor = value.type.tensor_type
        if not tensor.HasField("shape") or tensor.elem_type in (TensorProto.UNDEFINED, TensorProto.STRING):
            continue
        dims = [d.dim_value for d in tensor.shape.dim if d.HasField("dim_value")]
        if any(d < 0 for d in dims):
            raise ModelError(f"the value {value.name!r} has a negative size: {dims}")
        if len(dims) == len(tensor.shape.dim) and tensor_bytes(tensor.elem_type, tuple(dims)) > limit:
            raise ModelError(
                f"the value {value.name!r} of shape {dims} is larger than {limit >> 30} GiB; "
                "the model is damaged or hostile"
            )


def tensor_bytes(elem_type: int, shape: tuple[int, ...]) -> int:
    """The bytes that a tensor takes."""
    size = int(onnx.helper.tensor_dtype_to_np_dtype(elem_type).itemsize)
    for length in shape:
        size *= length
    return size
