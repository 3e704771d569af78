"""Run a graph of the builder in ONNX Runtime."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray

from edgec.models.graph import Graph, Value

Floats = NDArray[np.float32]


def compute(
    make: Callable[..., Value], *arrays: Floats, weights: dict[str, Any] | None = None
) -> tuple[Floats, Value, Graph]:
    """The values of the operator that `make(graph, *inputs)` adds, its output in the graph, and the graph.

    The shape and, in a model check, the types that the builder states have to be those that ONNX infers.
    """
    graph = Graph("test", weights)
    inputs = [graph.input(f"x{number}", array.shape) for number, array in enumerate(arrays)]
    output = make(graph, *inputs)
    model = graph.finish({"y": output})
    onnx.checker.check_model(model, full_check=True)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    (values,) = session.run(None, {f"x{number}": array for number, array in enumerate(arrays)})
    assert values.shape == output.shape
    return values, output, graph


def normal(*shape: int, seed: int = 0) -> Floats:
    """Normally distributed numbers."""
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)
