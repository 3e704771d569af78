"""The stages between a checked ONNX model and one ready for import, in the order in which they run."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import onnx
from onnx import ModelProto, NodeProto, ValueInfoProto

from edgec.compiler.errors import ModelError, opening
from edgec.compiler.frontends.onnx import (
    bfloat16,
    functions,
    legacy_broadcast,
    ml_outputs,
    opsets,
    sequence_ports,
    shapes,
)
from edgec.compiler.frontends.onnx.contradictions import contradiction
from edgec.compiler.frontends.onnx.deviations import deviates
from edgec.compiler.frontends.onnx.equivalence import computes_alike, follows_standard, runs_in_standard
from edgec.compiler.frontends.onnx.folding import fold_shapes
from edgec.compiler.frontends.onnx.origins import trace_origins
from edgec.compiler.frontends.onnx.ort_session import fold, objection, runs_in_onnxruntime
from edgec.compiler.frontends.onnx.reference_evaluator import Standard
from edgec.compiler.frontends.onnx.shape_inference import check_sizes, infer_shapes
from edgec.compiler.frontends.onnx.simplify import simplify
from edgec.compiler.frontends.onnx.sparse import densify
from edgec.compiler.frontends.onnx.unread import drop_unread_nodes, leave_out_empty_resizing
from edgec.compiler.frontends.onnx.validity import is_valid, knows_operators
from edgec.compiler.frontends.source import Port, SourceModel, SourceNode
from edgec.compiler.options import Bounds, Shape

HasConverter = Callable[[NodeProto], bool]


def prepare(
    given: ModelProto,
    path: Path,
    digest: str,
    input_shapes: Mapping[str, Shape],
    has_converter: HasConverter,
) -> SourceModel:
    """Make a checked model ready for import.

    Args:
        given: the model as read; it is changed.
        path: its file, for messages.
        digest: of the file.
        input_shapes: shapes by the names of inputs; sizes within bounds stay symbolic.
        has_converter: whether a node can be imported as it is.

    Raises:
        ModelError: shapes contradict each other, or ONNX Runtime rejects the model.
        InputShapeError: a shape does not fit, or is needed and missing.
    """
    nodes = tuple(SourceNode(i, n.name, n.op_type, n.domain) for i, n in enumerate(given.graph.node))
    values = {name: i for i, n in enumerate(given.graph.node) for name in n.output if name}
    names = {n.name: i for i, n in enumerate(given.graph.node) if n.name}
    densify(given, path)
    drop_unread_nodes(given.graph)
    labels = _upgrade(given)
    declared = shapes.declared_outputs(given)
    chosen = sequence_ports.take_inputs(given, input_shapes)
    chosen += shapes.set_static_shapes(given, input_shapes)
    bounds = shapes.bounds_of(given, input_shapes)
    try:
        sizes_known = infer_shapes(given)
        check_sizes(sizes_known)
    except (onnx.shape_inference.InferenceError, RuntimeError) as error:
        raise ModelError(f"{path}: {opening(error)}") from error
    sequence_ports.give_outputs(given, sizes_known)
    if legacy_broadcast.broadcasts_by_attribute(given):
        given = legacy_broadcast.lifted(given)
    given = opsets.lower_opset(_in_float32(given))
    sizes = {symbol: one.low for symbol, one in bounds.items()}
    simple = simplify(given, sizes)
    leave_out_empty_resizing(simple, path)
    why = objection(given.SerializeToString()) if simple is given else None
    if why is not None:
        _require_valid(given, path, why, sizes)
    typed = fold_shapes(simple) if simple is given else infer_shapes(simple)
    model, doubted = _expanded(typed, has_converter, sizes)
    doubted = doubted or deviates(given)
    return SourceModel(
        path=path,
        digest=digest,
        reference=given,
        model=model,
        inputs=ports_of(given.graph.input, bounds),
        outputs=ports_of(_typed_outputs(given, model, declared(given))),
        nodes=nodes,
        origins=trace_origins(model, values, names),
        labels=labels,
        chosen=tuple(chosen),
        bounds=bounds,
        original=Standard(given) if doubted or (why is not None and is_valid(given)) else None,
    )


def _upgrade(given: ModelProto) -> tuple[str, ...]:
    """Rewrite (in place) what old or classical models do otherwise; returns the texts of the model's labels."""
    labels = ml_outputs.to_tensors(given)
    opsets.lift_format(given)
    shapes.strip_initializer_inputs(given)
    shapes.take_optional_inputs(given)
    bfloat16.take_float32(given)
    return labels


def _require_valid(given: ModelProto, path: Path, why: str, sizes: Mapping[str, int]) -> None:
    """Reject a model that ONNX Runtime rejects, unless the standard's evaluator can be the reference instead.

    A model with operators that neither knows is passed on: the importer names each of them.
    """
    wrong = contradiction(given)
    # the inference knows fewer ellipses than the evaluator; any other model may be too large to evaluate
    if wrong is not None and not (wrong.startswith("Einsum ") and runs_in_standard(given, sizes)):
        raise ModelError(
            f"{path}: contradicts the ONNX standard at {wrong}\n"
            "Mend that node or export the model again; onnx.checker.check_model(model, full_check=True) names it, too."
        )
    trusted = is_valid(given) and not legacy_broadcast.broadcasts_by_attribute(given)
    if not trusted and knows_operators(given):
        raise ModelError(
            f"{path}: ONNX Runtime rejects this model, so there is no reference to verify against: {why}"
        )


def _in_float32(given: ModelProto) -> ModelProto:
    """The model with bfloat16 computed in float32, if ONNX Runtime rejects it as it is."""
    wide = bfloat16.computed_in_float32(infer_shapes(given))
    refused = wide is not None and objection(given.SerializeToString()) is not None
    return wide if wide is not None and refused else given


def _expanded(
    model: ModelProto, has_converter: HasConverter, sizes: Mapping[str, int]
) -> tuple[ModelProto, bool]:
    """The model with operators that have no converter replaced by their definitions in the standard.

    Returns:
        the model, and whether ONNX Runtime deviates from the standard on it, so that it is no reference.
    """
    expanded, inner = None, functions.expand(model, has_converter)
    for _ in range(functions.MOST_ROUNDS):  # some definitions contain operators that have one, too
        if inner is None:
            break
        expanded, inner = inner, functions.expand(infer_shapes(inner), has_converter)
    if expanded is None:
        return model, False
    lowered, known = opsets.lower_opset(expanded), runs_in_onnxruntime(model.SerializeToString())
    folded = fold(lowered)
    if folded is None:
        return (model if known else fold_shapes(lowered)), False
    doubted = known and not functions.needs_lengths(model) and not computes_alike(folded, model, sizes)
    if doubted and not follows_standard(folded, model, sizes):
        return model, False
    return infer_shapes(folded), doubted


def _typed_outputs(
    given: ModelProto, model: ModelProto, declared: Mapping[str, ValueInfoProto]
) -> list[ValueInfoProto]:
    """The outputs as inferred, or as declared where nothing is known of the shape, as behind a Loop."""
    typed = {value.name: value for value in model.graph.output}
    outputs = [typed.get(value.name, value) for value in given.graph.output]
    unknown = {v.name for v in outputs if not v.type.tensor_type.HasField("shape")}
    return [declared[v.name] if v.name in unknown & declared.keys() else v for v in outputs]


def ports_of(
    values: Sequence[ValueInfoProto], bounds: Mapping[str, Bounds] | None = None
) -> tuple[Port, ...]:
    """Ports of a graph's inputs or outputs, with safe names that are unique among them.

    Args:
        values: the inputs or outputs.
        bounds: of symbolic sizes; their lower ones stand in the ports' shapes.
    """
    known = bounds or {}
    ports, taken = [], set[str]()
    for value in values:
        safe = re.sub(r"\W", "_", value.name, flags=re.ASCII) or "value"
        safe = safe if not safe[0].isdigit() else f"v{safe}"
        unique, n = safe, 1
        while unique in taken:
            unique, n = f"{safe}_{n}", n + 1
        taken.add(unique)
        kind = value.type.tensor_type
        dims = tuple(
            d.dim_value if d.HasField("dim_value") else known[d.dim_param].low if d.dim_param in known else -1
            for d in kind.shape.dim
        )
        symbols = tuple(d.dim_param if d.dim_param in known else "" for d in kind.shape.dim)
        dtype = str(onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type)) if kind.elem_type else ""
        ports.append(Port(value.name, unique, dims, dtype, symbols if any(symbols) else ()))
    return tuple(ports)
