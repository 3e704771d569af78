"""Make a model's input shapes static: from the user, from the model, or batch 1."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from onnx import ModelProto, TensorProto, TypeProto, ValueInfoProto

from edgec.compiler.errors import InputShapeError, ModelError
from edgec.compiler.frontends.onnx.shape_inference import MAX_TENSOR_BYTES, tensor_bytes
from edgec.compiler.options import Bounds, Shape, Size

ANONYMOUS = re.compile(
    r"|\?+|-1|none|unk(nown)?|any|dyn(amic)?", re.IGNORECASE
)  # names that exporters give any size


def strip_initializer_inputs(model: ModelProto) -> None:
    """Remove initialisers from the graph's inputs, in place: old files list weights as inputs, too.

    Otherwise they count as values that a caller may replace, and nothing that depends on them is folded.
    """
    names = {tensor.name for tensor in model.graph.initializer}
    names |= {tensor.values.name for tensor in model.graph.sparse_initializer}
    kept = [value for value in model.graph.input if value.name not in names]
    if len(kept) < len(model.graph.input):
        copies = [ValueInfoProto.FromString(value.SerializeToString()) for value in kept]
        del model.graph.input[:]
        model.graph.input.extend(copies)


def take_optional_inputs(model: ModelProto) -> None:
    """Make optional inputs tensors, in place: an artifact's inputs are always given."""
    for value in model.graph.input:
        inner = value.type.optional_type.elem_type if value.type.HasField("optional_type") else None
        if inner is not None and inner.HasField("tensor_type"):
            tensor = TypeProto.FromString(inner.SerializeToString())
            value.type.CopyFrom(tensor)


def is_named(symbol: str) -> bool:
    """Whether a free size has a name, so that it is the same wherever the name stands; `?` and the like are none."""
    return ANONYMOUS.fullmatch(symbol) is None


def declared_outputs(model: ModelProto) -> Callable[[ModelProto], dict[str, ValueInfoProto]]:
    """What a model declares of its outputs, to be called with the model once its inputs have static shapes.

    Returns:
        a function that returns the outputs with a declared shape by name; symbols have the sizes of the inputs, and
        other free sizes none.
    """
    before = [ValueInfoProto.FromString(value.SerializeToString()) for value in model.graph.input]
    stored = [value.SerializeToString() for value in model.graph.output]

    def declared(after: ModelProto) -> dict[str, ValueInfoProto]:
        now = {value.name: value.type.tensor_type.shape.dim for value in after.graph.input}
        sizes = {
            one.dim_param: dim.dim_value
            for value in before
            for one, dim in zip(value.type.tensor_type.shape.dim, now.get(value.name, ()), strict=False)
            if is_named(one.dim_param) and dim.HasField("dim_value")
        }
        outputs = map(ValueInfoProto.FromString, stored)
        found = {value.name: value for value in outputs if value.type.tensor_type.HasField("shape")}
        for dim in (dim for value in found.values() for dim in value.type.tensor_type.shape.dim):
            if dim.dim_param in sizes:
                dim.dim_value = sizes[dim.dim_param]
        return found

    return declared


def set_static_shapes(model: ModelProto, asked: Mapping[str, Shape]) -> list[str]:
    """Give every input of the graph a shape (in place), static but for the sizes within bounds.

    Such a size keeps the model's name for it, or gets one (see `bounds_of`). A size comes from `asked`, else from the
    model, else from another input with the same symbolic size; the first size of an input (the batch) is 1 otherwise.
    Stale shapes of other values and of outputs are dropped.

    Returns:
        what was chosen where neither the caller nor the model says it, one sentence an input.

    Raises:
        InputShapeError: an unknown input name, another rank or fixed size, or a size that is missing.
        ModelError: an input is not a tensor of numbers, or an output holds texts.
    """
    graph = model.graph
    for value in graph.output:
        if value.type.tensor_type.elem_type == TensorProto.STRING:
            raise ModelError(
                f"the output {value.name!r} holds texts, and compiled models compute on numbers: cut the model before "
                "the node that makes them, such as the lookup of a label, and look them up in the application"
            )
    inputs = {value.name: value for value in graph.input}
    for name in asked:
        if name not in inputs:
            raise InputShapeError(f"the model has no input {name!r}; its inputs are {_listing(inputs)}")
    symbols: dict[str, Size] = {}
    for name, shape in asked.items():
        _bind(inputs[name], shape, symbols)
    missing, chosen = [], list[str]()
    for value in graph.input:
        if value.type.WhichOneof("value") != "tensor_type":
            kind = value.type.WhichOneof("value") or "no type"
            raise ModelError(f"the input {value.name!r} is not a tensor ({kind}); only tensors can be inputs")
        if value.type.tensor_type.elem_type in (TensorProto.UNDEFINED, TensorProto.STRING):
            raise ModelError(f"the input {value.name!r} is not a tensor of numbers, so it cannot be compiled")
        known = asked[value.name] if value.name in asked else _shape_of(value, symbols)
        if known is None:
            missing.append(value)
        else:
            chosen += _told(value, known) if value.name not in asked else []
            _set(value, known)
    if missing:
        lines = [f"--input {v.name}:{describe_shape(v)}" for v in missing]
        raise InputShapeError(
            f"sizes of the input{'s' if len(missing) > 1 else ''} are free: give them with {' '.join(lines)} "
            "(numbers in place of names)"
        )
    del graph.value_info[:]
    for value in graph.output:
        if value.type.HasField("tensor_type"):
            value.type.tensor_type.ClearField("shape")
    return chosen


def _told(value: ValueInfoProto, shape: Shape) -> list[str]:
    """What was chosen for an input that the caller left to the model."""
    dims = value.type.tensor_type.shape.dim
    free = [axis for axis, dim in enumerate(dims) if not _is_fixed(dim)]
    if free:
        what = ", ".join(f"{dims[axis].dim_param or '?'} = {shape[axis]}" for axis in free)
        return [f"{what} in the input {value.name!r}, which is now {_text(shape)}: --input sets other sizes"]
    if 0 in shape:
        return [
            f"the input {value.name!r} of shape {_text(shape)} has no elements, as the model declares it: "
            "--input sets other sizes where 0 stands for a free one"
        ]
    return []


def _is_fixed(dim: Any) -> bool:  # noqa: ANN401 - a message without a static type
    return bool(dim.HasField("dim_value")) and dim.dim_value >= 0


def describe_shape(value: ValueInfoProto) -> str:
    """A shape as `1x3xHEIGHTxWIDTH`: numbers for fixed dimensions, the model's names (or `?`) for free ones."""
    if not value.type.tensor_type.HasField("shape"):
        return "?"
    dims = value.type.tensor_type.shape.dim
    return "x".join(str(d.dim_value) if _is_fixed(d) else (d.dim_param or "?") for d in dims)


def _listing(inputs: Mapping[str, ValueInfoProto]) -> str:
    return ", ".join(f"{name} ({describe_shape(value)})" for name, value in inputs.items())


def _bind(value: ValueInfoProto, shape: Shape, symbols: dict[str, Size]) -> None:
    if any(isinstance(size, int) and size < 0 for size in shape):
        raise InputShapeError(f"the sizes of input {value.name!r} must not be negative: {_text(shape)}")
    if not value.type.tensor_type.HasField("shape"):
        return
    dims = value.type.tensor_type.shape.dim
    fits = len(dims) == len(shape) and all(
        d.dim_value <= 0 or d.dim_value == size for d, size in zip(dims, shape, strict=True)
    )
    if not fits:
        raise InputShapeError(
            f"the input {value.name!r} is {describe_shape(value)} in the model; "
            f"{_text(shape)} does not fit it"
        )
    for dim, size in zip(dims, shape, strict=True):
        if is_named(dim.dim_param) and symbols.setdefault(dim.dim_param, size) != size:
            raise InputShapeError(
                f"the size {dim.dim_param!r} would be {symbols[dim.dim_param]} and {size} at once "
                f"(input {value.name!r}); give all inputs that share it the same size"
            )


def _shape_of(value: ValueInfoProto, symbols: dict[str, Size]) -> Shape | None:
    if not value.type.tensor_type.HasField("shape"):
        return None
    shape: list[Size] = []
    for axis, dim in enumerate(value.type.tensor_type.shape.dim):
        if _is_fixed(dim):
            shape.append(dim.dim_value)
        elif is_named(dim.dim_param) and dim.dim_param in symbols:
            shape.append(symbols[dim.dim_param])
        elif axis == 0 or "batch" in dim.dim_param.lower():
            shape.append(1)
            if is_named(dim.dim_param):
                symbols[dim.dim_param] = 1
        else:
            return None
    return tuple(shape)


def _set(value: ValueInfoProto, shape: Shape) -> None:
    tensor = value.type.tensor_type
    size = tensor_bytes(tensor.elem_type, tuple(s if isinstance(s, int) else s.high for s in shape))
    if size > MAX_TENSOR_BYTES:
        raise InputShapeError(
            f"the input {value.name!r} of shape {_text(shape)} would take {size / 2**30:.0f} GiB; "
            f"the limit is {MAX_TENSOR_BYTES >> 30} GiB"
        )
    names = [dim.dim_param for dim in tensor.shape.dim] if tensor.HasField("shape") else [""] * len(shape)
    tensor.ClearField("shape")
    tensor.shape.SetInParent()
    for axis, length in enumerate(shape):
        dim = tensor.shape.dim.add()
        if isinstance(length, int):
            dim.dim_value = length
        else:
            dim.dim_param = names[axis] if is_named(names[axis]) else f"{value.name}.{axis}"


def bounds_of(model: ModelProto, asked: Mapping[str, Shape]) -> dict[str, Bounds]:
    """The bounds of the symbolic sizes of a model's inputs, by name, after `set_static_shapes`."""
    found: dict[str, Bounds] = {}
    for value in model.graph.input:
        for dim, size in zip(value.type.tensor_type.shape.dim, asked.get(value.name, ()), strict=False):
            if dim.dim_param and isinstance(size, Bounds):
                found[dim.dim_param] = size
    return found


def _text(shape: Shape) -> str:
    return "x".join(str(size) for size in shape) or "(a scalar)"
