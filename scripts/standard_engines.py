"""Other runtimes on the standard's node tests, for the comparison in docs/operators.md.

Each takes a model and its inputs and gives its outputs; what it raises counts as a refusal.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import ModelProto

Array = npt.NDArray[Any]
Engine = Callable[[ModelProto, Mapping[str, Array]], list[Array]]


def onnxruntime(model: ModelProto, inputs: Mapping[str, Array]) -> list[Array]:
    """ONNX Runtime with its defaults."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, ["CPUExecutionProvider"])
    values = session.run(None, dict(inputs))
    return [value if isinstance(value, list) else np.asarray(value) for value in values]


def openvino(model: ModelProto, inputs: Mapping[str, Array]) -> list[Array]:
    """OpenVINO's CPU plug-in, in the precision of the model."""
    import openvino

    core = _openvino_core()
    compiled = core.compile_model(
        core.read_model(model.SerializeToString(), b""),
        "CPU",
        {"INFERENCE_PRECISION_HINT": openvino.Type.f32, "INFERENCE_NUM_THREADS": 1},
    )
    results = compiled([inputs[value.name] for value in model.graph.input])
    return [np.asarray(results[i]) for i in range(len(compiled.outputs))]


@functools.cache
def _openvino_core() -> Any:  # noqa: ANN401 - OpenVINO has no types
    import openvino

    return openvino.Core()


def tvm(model: ModelProto, inputs: Mapping[str, Array]) -> list[Array]:
    """TVM's own importer and pipeline."""
    import tvm
    from tvm import relax
    from tvm.relax.frontend.onnx import from_onnx

    imported = from_onnx(model, keep_params_in_input=False)
    machine = relax.VirtualMachine(tvm.compile(imported, target="llvm"), tvm.cpu())
    given = [tvm.runtime.tensor(np.array(inputs[value.name], order="C")) for value in model.graph.input]
    result = machine["main"](*given)
    values = [result] if isinstance(result, tvm.runtime.Tensor) else list(result)
    return [value.numpy() for value in values]


def in_sequences(engine: Engine) -> Engine:
    """The engine on inputs and outputs whose sequences are given as their elements: `s.0`, `s.1` and so on."""

    def run(model: ModelProto, inputs: Mapping[str, Array]) -> list[Array]:
        given: dict[str, Any] = {}
        for value in model.graph.input:
            count = next(k for k in range(len(inputs) + 1) if f"{value.name}.{k}" not in inputs)
            elements = [inputs[f"{value.name}.{k}"] for k in range(count)]
            given[value.name] = elements or inputs[value.name]
        found: list[Array] = []
        for result in engine(model, given):
            found += result if isinstance(result, list) else [result]
        return found

    return run


ENGINES: dict[str, Engine] = {"onnxruntime": onnxruntime, "openvino": openvino, "tvm": tvm}
TITLES = {"onnxruntime": "ONNX Runtime", "openvino": "OpenVINO", "tvm": "plain TVM"}
PACKAGES = {"onnxruntime": "onnxruntime", "openvino": "openvino", "tvm": "apache-tvm"}
