"""From a file to a :class:`SourceModel`."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import onnx
from onnx import ModelProto, ValueInfoProto

from edgec.compiler.errors import ModelError
from edgec.compiler.frontends import formats
from edgec.compiler.frontends.onnx import (
    bfloat16,
    folding,
    functions,
    legacy_broadcast,
    ml_outputs,
    shapes,
    simplify,
)
from edgec.compiler.frontends.onnx.read import read_model
from edgec.compiler.frontends.onnx.reference_evaluator import Standard
from edgec.compiler.frontends.source import Port, SourceModel, SourceNode
from edgec.compiler.options import CompileOptions


def load_source(path: Path | str, options: CompileOptions) -> SourceModel:
    """Read a model and make it ready for import.

    Args:
        path: an ``.onnx`` file of any age, or a model of another framework (see
            :mod:`edgec.compiler.frontends.formats`).
        options: ``input_shapes`` gives the inputs static shapes.

    Raises:
        ModelError: the file is damaged, hostile or no model.
        ToolMissing: its front end needs a package that is not installed.
        InputShapeError: a shape that does not fit or has to be given.
    """
    path = Path(path)
    loaded = read_any(path, options)
    source = prepare(loaded.model, path, loaded.digest, options.input_shapes)
    return replace(source, original=loaded.original or source.original)


def read_any(path: Path, options: CompileOptions) -> formats.Loaded:
    """Read a model of any format as ONNX, as it is: nothing is simplified and no shape is set.

    Raises:
        ModelError, ToolMissing: as of :func:`load_source`.
    """
    if not path.exists():
        raise ModelError(f"{path}: no such file")
    kind = formats.detect(path)
    if kind is formats.ONNX:
        return formats.Loaded(*read_model(path))
    return formats.load(kind, path, options)


def prepare(
    given: ModelProto, path: Path, digest: str, input_shapes: Mapping[str, tuple[int, ...]]
) -> SourceModel:
    """Make a checked model ready for import; see :func:`load_source`."""
    nodes = tuple(SourceNode(i, n.name, n.op_type, n.domain) for i, n in enumerate(given.graph.node))
    values = {name: i for i, n in enumerate(given.graph.node) for name in n.output if name}
    names = {n.name: i for i, n in enumerate(given.graph.node) if n.name}
    labels = ml_outputs.to_tensors(given)
    simplify.lift_format(given)
    shapes.strip_initializer_inputs(given)
    shapes.take_optional_inputs(given)
    bfloat16.take_float32(given)
    shapes.set_static_shapes(given, input_shapes)
    try:
        shapes.check_sizes(simplify.infer_shapes(given))
    except (onnx.shape_inference.InferenceError, RuntimeError) as error:
        raise ModelError(f"{path}: {str(error).strip().splitlines()[0]}") from error
    if legacy_broadcast.broadcasts_by_attribute(given):
        given = legacy_broadcast.lifted(given)
    given = simplify.lower_opset(_in_float32(given))
    simple = simplify.simplify(given)
    why = simplify.objection(given.SerializeToString()) if simple is given else None
    foreign = why is not None and not simplify.is_valid(given)
    outdated = why is not None and legacy_broadcast.broadcasts_by_attribute(given)
    if (foreign or outdated) and simplify.knows_operators(given):
        raise ModelError(f"{path}: ONNX Runtime refuses this model, so nothing could vouch for it: {why}")
    model, doubted = _expanded(
        folding.fold_shapes(simple) if simple is given else simplify.infer_shapes(simple)
    )
    return SourceModel(
        path=path,
        digest=digest,
        reference=given,
        model=model,
        inputs=ports_of(given.graph.input),
        outputs=ports_of(_typed_outputs(given, model)),
        nodes=nodes,
        origins=simplify.trace_origins(model, values, names),
        labels=labels,
        original=Standard(given) if doubted or (why is not None and not foreign) else None,
    )


def _in_float32(given: ModelProto) -> ModelProto:
    """The model with casts around what ONNX Runtime does not compute in bfloat16, if that is why it refuses it."""
    wide = bfloat16.computed_in_float32(simplify.infer_shapes(given))
    refused = wide is not None and simplify.objection(given.SerializeToString()) is not None
    return wide if wide is not None and refused else given


def _expanded(model: ModelProto) -> tuple[ModelProto, bool]:
    """The model without operators that only their definition by simpler ones makes compilable.

    Returns:
        the model, and whether ONNX Runtime computes it otherwise than the standard, so that it is no reference.
    """
    from edgec.compiler.frontends.relax.importer import has_converter

    expanded = functions.expand(model, has_converter)
    if expanded is None:
        return model, False
    lowered, known = simplify.lower_opset(expanded), simplify.runs_in_onnxruntime(model.SerializeToString())
    folded = simplify.fold(lowered)
    if folded is None:
        return (model if known else folding.fold_shapes(lowered)), False
    doubted = known and not simplify.computes_alike(folded, model)
    if doubted and not _is_standard(folded, model):
        return model, False
    return simplify.infer_shapes(folded), doubted


def _is_standard(new: ModelProto, old: ModelProto) -> bool:
    """Whether ONNX Runtime computes with ``new`` what the standard says of ``old``."""
    inputs = simplify.made_up_inputs(old)
    try:
        expected = list(Standard(old).run(inputs).values())
    except ModelError:
        return False
    got = simplify.outputs_of(new, inputs)
    return got is not None and all(simplify.is_close(a, b) for a, b in zip(expected, got, strict=True))


def _typed_outputs(given: ModelProto, model: ModelProto) -> list[ValueInfoProto]:
    typed = {value.name: value for value in model.graph.output}
    return [typed.get(value.name, value) for value in given.graph.output]


def ports_of(values: Sequence[ValueInfoProto]) -> tuple[Port, ...]:
    """Ports of a graph's inputs or outputs, with safe names that are unique among them."""
    ports, taken = [], set[str]()
    for value in values:
        safe = re.sub(r"\W", "_", value.name, flags=re.ASCII) or "value"
        safe = safe if not safe[0].isdigit() else f"v{safe}"
        unique, n = safe, 1
        while unique in taken:
            unique, n = f"{safe}_{n}", n + 1
        taken.add(unique)
        kind = value.type.tensor_type
        dims = tuple(d.dim_value if d.HasField("dim_value") else -1 for d in kind.shape.dim)
        dtype = str(onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type)) if kind.elem_type else ""
        ports.append(Port(value.name, unique, dims, dtype))
    return tuple(ports)
