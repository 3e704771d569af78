"""Small ONNX models, made without a compiler."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper


def model_of(
    nodes: Sequence[NodeProto],
    inputs: Mapping[str, Any],
    outputs: Sequence[str],
    constants: Mapping[str, np.ndarray] | None = None,
    opset: int = 17,
    **extra: Any,
) -> ModelProto:
    """A model; `inputs` maps names to shapes (fp32) or to (type, shape)."""
    values = []
    for name, kind in inputs.items():
        elem, shape = kind if isinstance(kind, tuple) else (TensorProto.FLOAT, kind)
        values.append(helper.make_tensor_value_info(name, elem, shape))
    results = [helper.make_empty_tensor_value_info(name) for name in outputs]
    for result in results:
        result.type.tensor_type.elem_type = extra.get("output_type", TensorProto.FLOAT)
    stored = [numpy_helper.from_array(array, name) for name, array in (constants or {}).items()]
    graph = helper.make_graph(list(nodes), "test", values, results, stored)
    domains = [helper.make_opsetid("", opset), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=domains, functions=extra.get("functions", []))
    model.ir_version = 9
    return model


def save(model: ModelProto, folder: Path, name: str = "model.onnx") -> Path:
    """Write a model without any check."""
    path = folder / name
    path.write_bytes(model.SerializeToString())
    return path
