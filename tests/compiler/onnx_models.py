"""Small ONNX models for the compiler's tests, and how to run them through the whole compiler."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

import edgec.runtime as rt
from edgec.compiler import pack
from edgec.compiler.frontends import ImportedModel, load_source, to_relax
from edgec.compiler.lower import lower
from edgec.compiler.options import CompileOptions
from edgec.compiler.progress import Silent
from edgec.targets import detect

Arrays = dict[str, np.ndarray]


def model_of(
    nodes: Sequence[NodeProto],
    inputs: Mapping[str, Any],
    outputs: Sequence[str],
    constants: Mapping[str, np.ndarray] | None = None,
    opset: int = 17,
    **extra: Any,
) -> ModelProto:
    """A model; ``inputs`` maps names to shapes (fp32) or to (type, shape)."""
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


def build(path: Path, folder: Path, options: CompileOptions | None = None) -> tuple[ImportedModel, Path]:
    """Import, lower and pack a model without verification."""
    options = options or CompileOptions(tune="none", threads=1)
    imported = to_relax(load_source(path, options), fallback_allowed=options.fallback)
    target = detect()
    lowered = lower(imported.mod, target, options, Silent())
    config = pack.make_config(
        imported.source,
        lowered,
        target,
        options,
        name="m",
        version="1",
        card=None,
        segments=imported.segments,
    )
    artifact = folder / f"{path.stem}.edge"
    pack.write(artifact, config, lowered, segments=imported.segments)
    return imported, artifact


def both(model: ModelProto, inputs: Arrays, folder: Path) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Outputs of ONNX Runtime and of the compiled model."""
    imported, artifact = build(save(model, folder), folder)
    options = ort.SessionOptions()
    options.log_severity_level = 4
    expected = ort.InferenceSession(model.SerializeToString(), options).run(None, inputs)
    with rt.load(artifact, threads=1) as loaded:
        got = loaded.run(inputs)
    return expected, [got[port.name] for port in imported.source.outputs]


def assert_same(model: ModelProto, inputs: Arrays, folder: Path, atol: float = 1e-4) -> None:
    """Both give the same."""
    expected, got = both(model, inputs, folder)
    for a, b in zip(expected, got, strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_allclose(b, a, rtol=1e-4, atol=atol)
