"""Run nodes through the converters alone, natively compiled, and compare with the standard's evaluator or numpy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from onnx import ModelProto, NodeProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

import edgec.runtime as rt
from edgec.compiler.options import CompileOptions
from tests.compiler.onnx_models import build, save

Arrays = Mapping[str, np.ndarray]


def model_of(
    nodes: Sequence[NodeProto],
    inputs: Arrays,
    outputs: Mapping[str, type | str],
    constants: Arrays | None = None,
    opset: int = 20,
) -> ModelProto:
    """A model whose inputs have the types and shapes of arrays; `outputs` maps names to numpy's types."""
    graph = helper.make_graph(
        list(nodes),
        "family",
        [
            helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)
            for name, array in inputs.items()
        ],
        [
            helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(np.dtype(kind)), None)
            for name, kind in outputs.items()
        ],
        [numpy_helper.from_array(array, name) for name, array in (constants or {}).items()],
    )
    domains = [("", opset), ("com.microsoft", 1), ("ai.onnx.ml", 3)]
    return helper.make_model(graph, opset_imports=[helper.make_opsetid(*d) for d in domains], ir_version=10)


def standard(model: ModelProto, inputs: Arrays) -> dict[str, np.ndarray]:
    """The outputs by the evaluator of the `onnx` package."""
    names = [value.name for value in model.graph.output]
    values = ReferenceEvaluator(model).run(names, dict(inputs))
    return {name: np.asarray(value) for name, value in zip(names, values, strict=True)}


def assert_native(
    model: ModelProto,
    inputs: Arrays,
    folder: Path,
    expected: Arrays | None = None,
    *,
    rtol: float = 0.0,
    atol: float = 0.0,
) -> None:
    """Every node compiles natively and the outputs are the expected ones: by the standard, if not given."""
    expected = standard(model, inputs) if expected is None else expected
    options = CompileOptions(tune="none", threads=1, fallback=False)
    _, artifact = build(save(model, folder), folder, options)
    with rt.load(artifact, threads=1) as loaded:
        got = loaded.run(dict(inputs))
    assert set(got) == set(expected)
    for name, wanted in expected.items():
        assert got[name].dtype == wanted.dtype, name
        assert got[name].shape == wanted.shape, name
        np.testing.assert_allclose(got[name], wanted, rtol=rtol, atol=atol, err_msg=name)
