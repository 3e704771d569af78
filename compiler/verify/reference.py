"""The reference: the source model run by ONNX Runtime, or by the standard's evaluator where that would saturate."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from onnx import ModelProto, NodeProto, TensorProto

from edgec.compiler.errors import ModelError
from edgec.compiler.frontends.onnx.graphs import nodes_of, tensors_of
from edgec.compiler.frontends.onnx.ort_session import ORT_ERRORS, open_session
from edgec.compiler.frontends.onnx.reference_evaluator import CANNOT_RUN, STANDARD_DESCRIPTION, Standard
from edgec.compiler.frontends.source import SourceModel
from edgec.compiler.verify.inputs import Arrays
from edgec.compiler.verify.integer_products import PLAIN, STANDARD, Way, ways_to_run
from edgec.targets import machine_arch, machine_features

# What ONNX Runtime prefixes its messages with: its error class, and places in its sources.
_NOISE = re.compile(
    r"\[ONNXRuntimeError\] : \d+ : \w+ : |Non-zero status code returned while |/onnxruntime\S*/\S+:\d+ .*?\) "
)
# Of products with 4-bit weights that it makes of DequantizeLinear and MatMul: 1 is float32, its default rounds
# activations.
NARROW_PRODUCTS = "session.qdq_matmulnbits_accuracy_level"
QUANTISED = frozenset(
    {
        "QuantizeLinear",
        "DynamicQuantizeLinear",
        "DynamicQuantizeLSTM",
        "DynamicQuantizeMatMul",
        "QGemm",
        "QLinearConv",
        "QLinearMatMul",
        "ConvInteger",
    }
)


# It rounds the rows of a batch together: on several threads in groups, whose ranges differ.
ROUNDED_IN_GROUPS = "DynamicQuantizeLSTM"
ROUNDED = 4  # the `accuracy_level` of MatMulNBits that lets activations be rounded to 8 bits


def is_quantised(model: ModelProto) -> bool:
    """Whether the model rounds values to integers on its way."""
    floats = _float_tensors(model)
    return any(
        node.op_type in QUANTISED or node.op_type.startswith("QLinear") or _rounds(node, floats)
        for node in nodes_of(model, Path())
    )


def _float_tensors(model: ModelProto) -> set[str]:
    return {t.name for t in tensors_of(model, Path()) if t.data_type == TensorProto.FLOAT}


def _rounds(node: NodeProto, floats: set[str]) -> bool:
    """Whether a product with weights of a few bits rounds its activations to 8 bits: in edgec and in ONNX Runtime."""
    if node.op_type != "MatMulNBits" or node.input[2] not in floats:
        return False
    values = {attribute.name: attribute.i for attribute in node.attribute}
    return values.get("accuracy_level", 0) == ROUNDED and values.get("bits", 4) in (4, 8)


def rounds_float_results(model: ModelProto) -> bool:
    """Whether a quantised model also has products of floats, whose results it rounds to integers further on.

    Sums of floats differ in their last places between implementations, and a value beside a rounding edge then falls on
    either side of it: how often that shows depends on the inputs.
    """
    floats = {t.name for t in model.graph.initializer if t.data_type == TensorProto.FLOAT and len(t.dims) > 1}
    products = (
        node for node in model.graph.node if node.op_type in ("Conv", "ConvTranspose", "Gemm", "MatMul")
    )
    return is_quantised(model) and any(name in floats for node in products for name in node.input[1:2])


def exact_narrow_products(model: ModelProto) -> bytes:
    """The serialised model, whose MatMulNBits multiply in the type of their activations.

    Those that round them to 8 bits (`accuracy_level` 4) do so here, too.
    """
    changed, floats = model, _float_tensors(model)
    if any(node.op_type == "MatMulNBits" for node in nodes_of(model, Path())):
        changed = ModelProto()
        changed.CopyFrom(model)
    for node in nodes_of(changed, Path()):
        if node.op_type == "MatMulNBits" and not _rounds(node, floats):
            kept = [attribute for attribute in node.attribute if attribute.name != "accuracy_level"]
            del node.attribute[:]
            node.attribute.extend(kept)
    content: bytes = changed.SerializeToString()
    return content


def same_results(model: ModelProto, threads: int) -> int:
    """As many threads as leave the results what they are on one."""
    grouped = any(node.op_type == ROUNDED_IN_GROUPS for node in nodes_of(model, Path()))
    return 1 if grouped else threads


class Reference:
    """The source model on this CPU, run so that sums of 8-bit products are exact.

    Where ONNX Runtime's own integer kernels are, it is a session of ONNX Runtime with all its optimisations. Elsewhere
    it is the first way of `edgec.compiler.verify.integer_products` that accepts the model. Where ONNX Runtime rejects
    a model, or fails on inputs, the evaluator of the `onnx` package runs it if it is one of the standard.

    Args:
        source: the model.
        threads: of ONNX Runtime.
        ways: how to run the model, best first; by default those that are right on this machine. A benchmark wants
            ONNX Runtime as users run it, `(PLAIN,)`.

    Attributes:
        way: how the model is run.
        description: the same in words, for the evidence.

    Raises:
        ModelError: neither can run the model, so that nothing could vouch for a compiled one.
    """

    def __init__(self, source: SourceModel, threads: int = 1, ways: Sequence[Way] | None = None) -> None:
        self._names = [port.name for port in source.outputs]
        self._model = source.reference
        given = ways is not None
        if ways is None:
            ways = ways_to_run(source.reference, machine_arch(), machine_features())
        content = source.reference.SerializeToString() if given else exact_narrow_products(source.reference)
        threads = threads if given else same_results(source.reference, threads)
        self._content, self._threads, self._settings = content, threads, tuple[str, ...]()
        self._standard: Standard | None = None
        self._refusal = ""  # why ONNX Runtime cannot run the model, where the evaluator stands in
        failure: Exception | None = None
        for way in ways:
            self.way = way
            self.description = _describe(way)
            if way.standard:
                self._standard = Standard(source.reference)
                return
            try:
                self._settings = way.settings if given else (*way.settings, NARROW_PRODUCTS)
                self._session = open_session(content, threads=threads, settings=self._settings)
                return
            except ORT_ERRORS as error:
                failure = failure or error
        if given or not is_standard(source.reference) or not Standard(source.reference).knows_operators():
            raise ModelError(
                f"{source.path}: ONNX Runtime cannot run this model: {_reason(failure)}"
            ) from failure
        self._stand_in(failure)

    def run(self, inputs: Arrays) -> Arrays:
        """The outputs by name.

        Raises:
            ModelError: the model fails on these inputs.
        """
        if self._standard is not None:
            return self._by_standard(self._standard, inputs)
        try:
            values = self._session.run(self._names, inputs)
        except ORT_ERRORS as error:
            if self.way != PLAIN or not is_standard(self._model):
                raise ModelError(f"ONNX Runtime fails on these inputs: {_reason(error)}") from error
            return self._run_standard(inputs, error)
        return dict(zip(self._names, values, strict=True))

    def spread(self, inputs: Arrays) -> dict[str, float]:
        """How far the outputs move, by name, where ONNX Runtime runs nodes one by one: joined, they round elsewhere.

        Nothing where it does not run the model.
        """
        if self._standard is not None:
            return {}
        try:
            single = open_session(
                self._content, threads=self._threads, settings=self._settings, refine=_one_by_one
            )
            runs = [session.run(self._names, inputs) for session in (self._session, single)]
        except ORT_ERRORS:
            return {}
        pairs = zip(self._names, *runs, strict=True)
        return {name: _distance(joined, alone) for name, joined, alone in pairs}

    def _run_standard(self, inputs: Arrays, error: Exception) -> Arrays:
        standard = Standard(self._model)
        try:
            values = standard.run(inputs)
        except ModelError as second:
            raise ModelError(
                f"ONNX Runtime fails on these inputs ({_reason(error)}), and so does the standard's evaluator: "
                f"{_reason(second).removeprefix(CANNOT_RUN)}"
            ) from error
        self._stand_in(error)
        return values

    def _by_standard(self, standard: Standard, inputs: Arrays) -> Arrays:
        try:
            return standard.run(inputs)
        except ModelError as error:
            if not self._refusal:
                raise
            raise ModelError(
                f"ONNX Runtime cannot run this model ({self._refusal}), and the standard's evaluator fails: "
                f"{_reason(error).removeprefix(CANNOT_RUN)}"
            ) from error

    def _stand_in(self, error: Exception | None) -> None:
        """Let the standard's evaluator run the model from now on."""
        self._refusal = _reason(error)
        self._standard, self.way = Standard(self._model), STANDARD
        self.description = f"{STANDARD_DESCRIPTION} (ONNX Runtime cannot run the model: {_reason(error)})"


def _one_by_one(options: ort.SessionOptions) -> None:
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL


def _distance(a: Any, b: Any) -> float:  # noqa: ANN401 - an output may be a sequence
    """The largest difference of two outputs' finite numbers; 0 for what is not of numbers."""
    if not isinstance(a, np.ndarray) or a.dtype.kind not in "fiu" or a.shape != np.shape(b):
        return 0.0
    with np.errstate(all="ignore"):
        difference = np.abs(a.astype(np.float64) - b.astype(np.float64))
    return float(np.max(difference, initial=0.0, where=np.isfinite(difference)))


def is_standard(model: ModelProto) -> bool:
    """Whether all operators are of the standard, so that its own evaluator may know them."""
    known = {"", "ai.onnx", "ai.onnx.ml", *(function.domain for function in model.functions)}
    return {node.domain for node in nodes_of(model, Path())} <= known


def session_of(content: bytes, way: Way = PLAIN, threads: int = 1) -> Any:  # noqa: ANN401 - it has no static types
    """A session of ONNX Runtime on a serialised model."""
    return open_session(content, threads=threads, settings=way.settings)


def _describe(way: Way) -> str:
    if way.standard:
        return f"{STANDARD_DESCRIPTION} (ONNX Runtime's int8 products saturate on this CPU)"
    told = [f"{name}=1" for name in way.settings]
    if not way.exact:
        told.append("its int8 products saturate on this CPU")
    return f"onnxruntime {ort.__version__}" + (f" ({', '.join(told)})" if told else "")


def _reason(error: Exception | None) -> str:
    text = str(error).strip().splitlines()
    if not text:
        return type(error).__name__
    told = _NOISE.sub("", text[0]).strip()
    return (told or text[0])[:200]
