"""From a loaded model to TensorFlow Lite: static shapes, tracing, TensorFlow's own converter."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgec.compiler.errors import opening
from edgec.compiler.frontends.tensorflow.refusals import MODEL, SHAPE, Refused
from edgec.compiler.frontends.tensorflow.sources import Source, Wanted

# Operators that change a variable.
ASSIGNS = frozenset({"AssignVariableOp", "AssignAddVariableOp", "AssignSubVariableOp"})


def static_shapes(inputs: list[Wanted], asked: Mapping[str, tuple[int, ...]]) -> list[tuple[int, ...]]:
    """A shape for each input: the requested one, else the model's own with batch 1.

    Raises:
        Refused: an unknown name, a shape that does not fit, or missing sizes.
    """
    listing = ", ".join(f"{wanted.name} ({_text(wanted)})" for wanted in inputs)
    for name in asked:
        if name not in {wanted.name for wanted in inputs}:
            raise Refused(SHAPE, f"the model has no input {name!r}; its inputs are {listing}")
    shapes, missing = [], []
    for wanted in inputs:
        shape, declared = asked.get(wanted.name), wanted.shape
        if shape is None:
            sizes = declared and (declared[0] or 1, *declared[1:])
            if declared is None or None in (sizes or ()):
                missing.append(f"--input {wanted.name}:{_text(wanted)}")
            shape = tuple(size or 1 for size in sizes or ())
        elif declared is not None and not (
            len(shape) == len(declared)
            and all(want in (None, size) for want, size in zip(declared, shape, strict=True))
        ):
            told = "x".join(map(str, shape))
            raise Refused(
                SHAPE, f"the input {wanted.name!r} is {_text(wanted)} in the model; {told} does not fit it"
            )
        shapes.append(shape)
    if missing:
        raise Refused(
            SHAPE,
            f"sizes of the input{'s' if len(missing) > 1 else ''} are free: give them with {' '.join(missing)} "
            "(numbers in place of ?)",
        )
    return shapes


def _text(wanted: Wanted) -> str:
    if wanted.shape is None:
        return "?"
    free_batch = [
        "1" if axis == 0 and size is None else str(size or "?") for axis, size in enumerate(wanted.shape)
    ]
    return "x".join(free_batch)


def convert(source: Source, shapes: list[tuple[int, ...]], target: Path) -> None:
    """Write the model as TensorFlow Lite with inputs `i0`, `i1` … and outputs `o0`, `o1` … in order.

    Raises:
        Refused: it has operators that TensorFlow Lite lacks.
    """
    import tensorflow as tf

    def call(*values: Any) -> dict[str, Any]:  # noqa: ANN401
        return {f"o{k}": tf.identity(made) for k, made in enumerate(source(*values))}

    holder = source.prepare()
    specs = [
        tf.TensorSpec(shape, wanted.dtype, name=f"i{k}")
        for k, (wanted, shape) in enumerate(zip(source.inputs, shapes, strict=True))
    ]
    try:
        traced = tf.function(call, input_signature=specs).get_concrete_function()
    except Exception as error:  # of any class; the process ends with it
        told = f"the model does not take these shapes: {opening(error)}"
        raise _refusal_within(error) or Refused(SHAPE, told) from error
    try:
        content = _converter(traced, holder, target.with_name("traced")).convert()
    except Exception as error:
        raise Refused(
            MODEL, _lacking(str(error)) or f"TFLiteConverter cannot convert it: {opening(error)}"
        ) from error
    target.write_bytes(content)


def _converter(traced: Any, holder: Any, folder: Path) -> Any:  # noqa: ANN401 - TensorFlow has no types
    """A converter for a traced function; one that assigns to variables goes by way of a SavedModel.

    TensorFlow's converter turns the variables of a function into constants, and keeps those of a SavedModel.
    """
    import tensorflow as tf

    graph = traced.graph.as_graph_def()
    nodes = [*graph.node, *(node for function in graph.library.function for node in function.node_def)]
    if not any(node.op in ASSIGNS for node in nodes):
        return tf.lite.TFLiteConverter.from_concrete_functions([traced], holder)
    root = tf.Module()
    root.holder, root.captured = (
        holder,
        list(traced.graph.variables),
    )  # Keras lists no states among its variables
    tf.saved_model.save(root, str(folder), signatures=traced)
    converter = tf.lite.TFLiteConverter.from_saved_model(str(folder))
    converter.experimental_enable_resource_variables = True
    return converter


def _refusal_within(error: BaseException | None) -> Refused | None:
    """A `Refused` that Keras has wrapped in an error of its own."""
    while error is not None and not isinstance(error, Refused):
        error = error.__cause__ or error.__context__
    return error


def _lacking(text: str) -> str:
    """A message that names the operators which, by the converter's error, TensorFlow Lite lacks."""
    listed = re.findall(r"^\s*(?:TF Select|Flex|Custom) ops: (.+)$", text, re.MULTILINE)
    names = {name.strip() for line in listed for name in line.split(",")}
    names |= set(re.findall(r"'tf\.(\w+)' op is neither", text))
    if not names and "TensorList" in text:
        return (
            "has a loop over lists of tensors, as recurrent layers have, and TensorFlow Lite cannot tell their sizes. "
            "Compile the .keras or .h5 file, whose recurrent layers are unrolled, or convert it to ONNX (tf2onnx)"
        )
    if not names:
        return ""
    return (
        f"TensorFlow Lite lacks operators of this model: {', '.join(sorted(names))}. Build it without them, or convert "
        "it to ONNX (tf2onnx), where what cannot be compiled runs through ONNX Runtime"
    )
