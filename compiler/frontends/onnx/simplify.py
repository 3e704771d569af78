"""Turn a checked ONNX model into a simple one: recent opset, constants folded, no detours.

The work is done by tools that follow the standard: ``onnx.version_converter`` lifts old opsets, and ONNX
Runtime's basic optimisations fold constants and shape arithmetic, drop Identity and Cast chains and merge
batch norms into convolutions, all with operators of the standard. Both keep the names of values that survive,
and by those names every node is traced back to the source model.
"""

from __future__ import annotations

import re
import resource
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort
from onnx import AttributeProto, GraphProto, ModelProto, TensorProto
from onnxruntime.capi.onnxruntime_pybind11_state import (
    Fail,
    InvalidArgument,
    InvalidGraph,
    NoModel,
    NotImplemented,
    RuntimeException,
)

ORT_ERRORS = (
    Fail,
    InvalidArgument,
    InvalidGraph,
    NoModel,
    NotImplemented,
    RuntimeException,
    UnicodeDecodeError,  # its messages quote a model's names, which a damaged file may have made of any bytes
)
OLDEST_OPSET = 13  # below it, axes and sizes are attributes, and operators have other meanings
LIFTED_OPSET = 18
NEWEST_OPSET = 26  # the newest operators that ONNX Runtime has
OLDEST_IR, NEWEST_IR = 8, 13  # file formats that ONNX Runtime reads, with initialisers apart from inputs
ATTRIBUTE_LISTS = {
    "floats": AttributeProto.FLOATS,
    "ints": AttributeProto.INTS,
    "strings": AttributeProto.STRINGS,
}
ATTRIBUTE_VALUES = {
    "f": AttributeProto.FLOAT,
    "i": AttributeProto.INT,
    "s": AttributeProto.STRING,
    "t": AttributeProto.TENSOR,
    "g": AttributeProto.GRAPH,
}
LARGE_CONSTANT = 1 << 16  # bytes
MOST_MEMORY = 12 << 30  # bytes that folding may take beside what the process has


def opset_of(model: ModelProto) -> int:
    """The version of the default operator set; 1 for files from before there were versions."""
    versions = [entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")]
    return versions[0] if versions else 1


def lift_format(model: ModelProto) -> None:
    """Bring the file format (not the operators) up to date, in place."""
    if not any(entry.domain in ("", "ai.onnx") for entry in model.opset_import):
        entry = model.opset_import.add()
        entry.domain, entry.version = "", 1 if model.ir_version < 3 else LIFTED_OPSET
    for entry in model.opset_import:
        if entry.domain == "ai.onnx":
            entry.domain = ""
    for node in model.graph.node:
        if node.domain == "ai.onnx":
            node.domain = ""
    _type_attributes(model.graph)
    known = {entry.domain for entry in model.opset_import}
    for domain in sorted({node.domain for node in model.graph.node} - known):
        model.opset_import.add(domain=domain, version=1)
    model.ir_version = min(max(model.ir_version, OLDEST_IR), NEWEST_IR)


def _type_attributes(graph: GraphProto) -> None:
    """Give attributes their types (in place): files of the first format leave them to be seen from the value."""
    for attribute in (a for node in graph.node for a in node.attribute):
        if attribute.type != AttributeProto.UNDEFINED:
            continue
        lists = [kind for field, kind in ATTRIBUTE_LISTS.items() if len(getattr(attribute, field))]
        values = [kind for field, kind in ATTRIBUTE_VALUES.items() if attribute.HasField(field)]
        attribute.type = (lists + values + [AttributeProto.UNDEFINED])[0]


def lift_opset(model: ModelProto) -> ModelProto:
    """The model in a recent opset, or as it is where the converter has no way for one of its operators."""
    if opset_of(model) >= OLDEST_OPSET:
        return model
    from onnx import version_converter

    try:
        lifted = version_converter.convert_version(model, LIFTED_OPSET)
    except (version_converter.ConvertError, RuntimeError, ValueError, onnx.checker.ValidationError):
        return model
    _name_old_resizing(lifted)
    return lifted if _has_outputs_of(lifted, model) else model


def lower_opset(model: ModelProto) -> ModelProto:
    """A model of an operator set that ONNX Runtime does not know yet, in the newest that it does know.

    New sets mostly let operators take more types: a model that does not use those means the same in the older
    one. The model itself is returned where ONNX Runtime would not take that.
    """
    if opset_of(model) <= NEWEST_OPSET:
        return model
    lowered = ModelProto()
    lowered.CopyFrom(model)
    for entry in lowered.opset_import:
        if entry.domain in ("", "ai.onnx"):
            entry.version = NEWEST_OPSET
    return lowered if is_valid(lowered) and runs_in_onnxruntime(lowered.SerializeToString()) else model


def _name_old_resizing(lifted: ModelProto) -> None:
    """Say of each Resize what it did before there were attributes to say it (the converter forgets that)."""
    for node in lifted.graph.node:
        given = {attribute.name for attribute in node.attribute}
        if node.op_type == "Resize" and "coordinate_transformation_mode" not in given:
            node.attribute.append(onnx.helper.make_attribute("coordinate_transformation_mode", "asymmetric"))
            node.attribute.append(onnx.helper.make_attribute("nearest_mode", "floor"))


def _has_outputs_of(new: ModelProto, old: ModelProto) -> bool:
    return [v.name for v in new.graph.output] == [v.name for v in old.graph.output]


def fold(model: ModelProto) -> ModelProto | None:
    """The model after ONNX Runtime's basic optimisations, or None when ONNX Runtime cannot take it."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    # operators that the standard defines by others stay whole: one converter beats a dozen nodes
    options.add_session_config_entry("session.disable_aot_function_inlining", "1")
    with tempfile.TemporaryDirectory(prefix="edgec-fold-") as folder:
        file = Path(folder) / "folded.onnx"
        options.optimized_model_filepath = str(file)
        try:
            with bounded_memory(MOST_MEMORY):
                ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        except (*ORT_ERRORS, MemoryError):
            return None
        return onnx.load(file)


@contextmanager
def bounded_memory(extra: int) -> Iterator[None]:
    """Let this process take at most ``extra`` bytes more: folding runs whatever constants a model names."""
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    used = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0]) * resource.getpagesize()
    limit = used + extra if soft == resource.RLIM_INFINITY else min(soft, used + extra)
    resource.setrlimit(resource.RLIMIT_AS, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def runs_in_onnxruntime(content: bytes) -> bool:
    """Whether ONNX Runtime takes a serialised model."""
    return objection(content) is None


def objection(content: bytes) -> str | None:
    """Why ONNX Runtime does not take a serialised model; None when it does."""
    options = ort.SessionOptions()
    options.log_severity_level = 4
    try:
        ort.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    except ORT_ERRORS as error:
        told = re.sub(r"/onnxruntime\S*/\S+:\d+ .*?\) ", "", str(error).strip())  # where in its sources
        return told.splitlines()[0][:200] if told else "it gives no reason"
    return None


def is_valid(model: ModelProto) -> bool:
    """Whether a model is right by the standard, whoever can run it."""
    stamped = ModelProto()
    stamped.CopyFrom(model)
    stamped.ir_version = onnx.IR_VERSION  # the newest operator sets ask for the newest format
    for value in stamped.graph.output:
        if value.type.HasField("tensor_type"):  # the checker wants a shape, though it is not known yet
            value.type.tensor_type.shape.SetInParent()
    try:
        onnx.checker.check_model(stamped)
    except (onnx.checker.ValidationError, ValueError):
        return False
    return True


def knows_operators(model: ModelProto) -> bool:
    """Whether the standard, or ONNX Runtime, defines all operators of the main graph."""
    return all(
        node.domain == "com.microsoft" or onnx.defs.has(node.op_type, domain=node.domain)
        for node in model.graph.node
    )


def simplify(model: ModelProto) -> ModelProto:
    """The simplest form of ``model`` that ONNX Runtime computes alike; ``model`` itself if there is none.

    The converter of operator sets has been seen to change what a model computes, so each step is tried out.
    """
    copy = ModelProto()
    copy.CopyFrom(model)
    for candidate in (lift_opset(copy), model):
        folded = fold(candidate)
        if folded is not None and any(
            "_inlfunc_" in name for node in folded.graph.node for name in node.output
        ):
            folded = fold(folded)  # ONNX Runtime writes out functions after it has folded
        if folded is not None and computes_alike(folded, model):
            return folded
    return model


def computes_alike(new: ModelProto, old: ModelProto) -> bool:
    """Whether both give the same outputs for made-up inputs; True when neither runs on them."""
    inputs = made_up_inputs(old)
    expected, got = outputs_of(old, inputs), outputs_of(new, inputs)
    if expected is None or got is None:
        return expected is None and got is None
    return all(is_close(a, b) for a, b in zip(expected, got, strict=True))


def made_up_inputs(model: ModelProto) -> dict[str, npt.NDArray[Any]]:
    """Noise for inputs of real numbers, ones for others."""
    rng = np.random.default_rng(0)
    inputs = {}
    for value in model.graph.input:
        shape = tuple(d.dim_value for d in value.type.tensor_type.shape.dim)
        dtype = onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)
        inputs[value.name] = rng.random(shape).astype(dtype) if dtype.kind == "f" else np.ones(shape, dtype)
    return inputs


def outputs_of(model: ModelProto, inputs: dict[str, Any]) -> list[Any] | None:
    """What ONNX Runtime computes; None where it cannot."""
    options = ort.SessionOptions()
    options.log_severity_level = 4
    try:
        session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        return list(session.run(None, inputs))
    except ORT_ERRORS:
        return None


def is_close(a: Any, b: Any) -> bool:  # noqa: ANN401 - arrays, or whatever else ONNX Runtime returns
    """Whether two outputs are the same but for rounding."""
    if not isinstance(a, np.ndarray) or not isinstance(b, np.ndarray):
        return type(a) is type(b)
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    if a.dtype.kind != "f":
        return bool(np.array_equal(a, b))
    scale = float(np.abs(a[np.isfinite(a)]).max(initial=0.0))
    return bool(np.allclose(a, b, rtol=0, atol=1e-2 * scale + 1e-6, equal_nan=True))


def infer_shapes(model: ModelProto) -> ModelProto:
    """The model with the shapes of all its values that follow from the inputs.

    Without propagation of data: that computes with whatever sizes a hostile model names, however large.
    Constants are folded by then anyway. Nor do large constants travel to the library and back: shapes follow from
    those with a number for each axis at most.
    """
    light = ModelProto()
    light.CopyFrom(model)
    large = [i for i, tensor in enumerate(light.graph.initializer) if tensor.ByteSize() > LARGE_CONSTANT]
    for i in large:
        tensor = light.graph.initializer[i]
        tensor.CopyFrom(TensorProto(name=tensor.name, dims=tensor.dims, data_type=tensor.data_type))
    inferred = onnx.shape_inference.infer_shapes(light, check_type=False, strict_mode=False, data_prop=False)
    for i in large:
        inferred.graph.initializer[i].CopyFrom(model.graph.initializer[i])
    return inferred


def trace_origins(model: ModelProto, sources: Mapping[str, int], names: Mapping[str, int]) -> dict[str, int]:
    """Find for each value of the cleaned ``model`` the node of the source that it came from.

    Args:
        sources: name of a value to the index of the source node that makes it.
        names: name of a node to its index in the source.

    Returns:
        name of a value to an index. A value that cleaning made up belongs to the node of its reader, else to
        that of what it is made from.
    """
    origins: dict[str, int] = {}
    for node in model.graph.node:
        known = [sources[name] for name in node.output if name in sources]
        known = known or ([names[node.name]] if node.name in names else [])
        for name in node.output:
            if known:
                origins[name] = known[-1]
    for node in reversed(model.graph.node):
        own = next((origins[name] for name in node.output if name in origins), None)
        for name in node.input:
            if own is not None and name not in origins and name not in sources:
                origins[name] = own
    for node in model.graph.node:
        before = next((origins[name] for name in node.input if name in origins), 0)
        for name in node.output:
            origins.setdefault(name, before)
    return origins
