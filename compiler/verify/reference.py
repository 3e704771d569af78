"""The reference: the source model run by ONNX Runtime."""

from __future__ import annotations

import onnxruntime as ort
from onnx import ModelProto

from edgec.compiler.errors import ModelError
from edgec.compiler.frontends.onnx.ort_session import ORT_ERRORS
from edgec.compiler.frontends.source import SourceModel
from edgec.compiler.verify.inputs import Arrays

QUANTISED = frozenset(
    {"QuantizeLinear", "DynamicQuantizeLinear", "QLinearConv", "QLinearMatMul", "ConvInteger"}
)


def is_quantised(model: ModelProto) -> bool:
    """Whether the model rounds values to integers on its way."""
    return any(node.op_type in QUANTISED or node.op_type.startswith("QLinear") for node in model.graph.node)


class Reference:
    """A session of ONNX Runtime on the source model with all its optimisations.

    Raises:
        ModelError: ONNX Runtime cannot run the model, so that nothing could vouch for a compiled one.
    """

    def __init__(self, source: SourceModel, threads: int = 1) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 4
        self._names = [port.name for port in source.outputs]
        self.version = str(ort.__version__)
        self.description = f"onnxruntime {self.version}"
        try:
            self._session = ort.InferenceSession(
                source.reference.SerializeToString(), options, providers=["CPUExecutionProvider"]
            )
        except ORT_ERRORS as error:
            raise ModelError(
                f"{source.path}: ONNX Runtime cannot run this model: {_reason(error)}"
            ) from error

    def run(self, inputs: Arrays) -> Arrays:
        """The outputs by name.

        Raises:
            ModelError: the model fails on these inputs.
        """
        try:
            values = self._session.run(self._names, inputs)
        except ORT_ERRORS as error:
            raise ModelError(f"ONNX Runtime fails on these inputs: {_reason(error)}") from error
        return dict(zip(self._names, values, strict=True))


def _reason(error: Exception) -> str:
    text = str(error).strip().splitlines()
    return text[0][:300] if text else type(error).__name__
