"""The sizes of a model's inputs as a caller chooses them, and those of all other tensors that follow."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from edgec.compiler.errors import InputShapeError, opening
from edgec.compiler.frontends.interface import require
from edgec.compiler.frontends.tflite.flat import EXTRA, Graph, Model, Tensor
from edgec.compiler.frontends.tflite.folding import unsettled

Shape = tuple[int, ...]


def chosen(model: Model, names: Mapping[int, str], asked: Mapping[str, Shape]) -> dict[int, Shape]:
    """The inputs by index whose sizes differ from those in the file.

    Args:
        names: the names of inputs and outputs by index.
        asked: shapes by the names of inputs.

    Raises:
        InputShapeError: a shape that does not fit the input.
    """
    sizes = {}
    for index in model.main.inputs:
        tensor, shape = model.main.tensors[index], asked.get(names[index])
        if shape is None or tuple(shape) == tensor.shape:
            continue
        fixed = [a for a in range(len(tensor.shape)) if tensor.free and a not in tensor.free]
        fits = len(shape) == len(tensor.shape) and all(shape[a] == tensor.shape[a] for a in fixed)
        if not fits or min(shape, default=1) < 1:
            raise InputShapeError(
                f"the input {tensor.name!r} is {_described(tensor)} in the model; {_text(shape)} does not fit it"
            )
        sizes[index] = tuple(shape)
    return sizes


def settled(model: Model, content: bytes, sizes: Mapping[int, Shape], path: Path) -> Model:
    """The model with the shapes that its tensors have at these sizes, as LiteRT infers them.

    A model whose sizes are all fixed is returned as it is.

    Raises:
        InputShapeError: the model cannot be computed at these sizes.
        ToolMissing: ai-edge-litert is not installed.
    """
    inputs = set(model.main.inputs)
    free = any(t.free for graph in model.graphs for t in graph.tensors if t.index not in inputs)
    if not sizes and not free:
        return model
    module: Any = require("ai_edge_litert.interpreter", EXTRA, path)
    plain = module.OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
    try:
        interpreter = module.Interpreter(
            model_content=content,
            num_threads=1,
            experimental_op_resolver_type=plain,
            experimental_preserve_all_tensors=True,
        )
        for index, shape in sizes.items():
            interpreter.resize_tensor_input(index, shape)
        interpreter.allocate_tensors()
    except (ValueError, RuntimeError) as error:
        if not sizes and not any(model.main.tensors[index].free for index in model.main.inputs):
            return model  # operators that LiteRT lacks; the file's own shapes have to do
        raise _unfit(model, sizes, path, opening(error)[:200]) from error
    # kernels set some shapes; where zeros are no valid input, those of `allocate_tensors` stay
    with contextlib.suppress(ValueError, RuntimeError):
        interpreter.invoke()
    result = Model(
        tuple(_with_shapes(graph, interpreter, number) for number, graph in enumerate(model.graphs))
    )
    for tensor in (result.main.tensors[index] for index in result.main.outputs):
        if tensor.free and 0 in tensor.shape:
            raise _unfit(model, sizes, path, f"its output {tensor.name!r} would be empty")
    return result


def _with_shapes(graph: Graph, interpreter: Any, number: int) -> Graph:  # noqa: ANN401
    by_value, tensors = unsettled(graph), []
    for tensor in graph.tensors:
        if tensor.data is None and tensor.index not in by_value:
            shape = _shape_in(interpreter, tensor.index, number)
            tensors.append(tensor if shape is None else replace(tensor, shape=shape))
        else:
            tensors.append(tensor)
    return replace(graph, tensors=tuple(tensors))


def _shape_in(interpreter: Any, index: int, number: int) -> Shape | None:  # noqa: ANN401
    try:
        details = interpreter._get_tensor_details(index, number)
    except ValueError:  # a tensor without a type, which no operator uses
        return None
    return tuple(int(size) for size in np.asarray(details["shape"]).reshape(-1))


def _unfit(model: Model, sizes: Mapping[int, Shape], path: Path, reason: str) -> InputShapeError:
    inputs = [model.main.tensors[index] for index in model.main.inputs]
    if sizes:
        told = ", ".join(f"{model.main.tensors[i].name} {_text(shape)}" for i, shape in sizes.items())
        return InputShapeError(f"{path}: the model cannot be computed with {told}: {reason}")
    lines = " ".join(f"--input {t.name}:{_described(t)}" for t in inputs if t.free)
    return InputShapeError(
        f"{path}: it cannot be computed with the sizes in the file ({reason}); those of its inputs are free, so "
        f"give others with {lines} (numbers in place of ?)"
    )


def _described(tensor: Tensor) -> str:
    return (
        "x".join("?" if a in tensor.free else str(size) for a, size in enumerate(tensor.shape)) or "a scalar"
    )


def _text(shape: Shape) -> str:
    return "x".join(str(size) for size in shape) or "a scalar"
